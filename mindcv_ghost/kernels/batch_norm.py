"""Batch normalisation, and the update of running statistics that every operator with BN needs."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn, ops

from mindcv_ghost.kernels.custom_op import (
    EvaluationOperator,
    custom_operator,
    make_in_place_operator,
    read_once,
    settings_tensor,
)
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell, is_plain_batch_norm
from mindcv_ghost.layers import ConvNormAct

__all__ = [
    "BatchNorm",
    "NativeBatchNorm2d",
    "NativeConvNormAct",
    "UpdateRunningStatistics",
    "norm_parameters",
]


class UpdateRunningStatistics(nn.Cell):
    """Updates the running statistics of batch normalisations in place.

    Args:
        library: that has the operators.
        norms: the BNs, whose momentum is read here.

    Inputs: the feature maps (for the number of values), the batch statistics that the forward
    operator has saved, then running mean and running variance of each BN.
    Outputs: a tensor to depend on.
    """

    def __init__(self, library: Library, *norms: nn.BatchNorm2d) -> None:
        super().__init__(auto_prefix=False)
        # MindSpore keeps 1 - momentum: the weight of the new batch.
        self.settings = settings_tensor(*(norm.momentum for norm in norms))
        self.update = make_in_place_operator(
            str(library.path), "ghost_update_running_statistics", 3, 2 * len(norms)
        )

    def construct(self, x, saved, *statistics):
        x, saved = ops.stop_gradient(x), ops.stop_gradient(saved)
        return self.update(self.settings, x, saved, *statistics)


class BatchNorm(nn.Cell):
    """Batch normalisation in training, including running statistics, and in evaluation.

    Args:
        library: that has the operators.
        norm: the BN, whose epsilon and momentum are read here.
        relu: whether a ReLU follows.

    Inputs:
        x (N, C, H, W), gamma, beta, running mean, running variance; a shortcut (N, C, H, W), or
        None. A shortcut needs ``relu=False``.

    Outputs:
        (N, C, H, W): the maps, or with a shortcut ``relu(maps + shortcut)``.
    """

    def __init__(self, library: Library, norm: nn.BatchNorm2d, relu: bool = False) -> None:
        super().__init__(auto_prefix=False)
        settings = settings_tensor(relu, norm.eps)

        def shape(_, x, *others):
            return x

        name = "ghost_batch_norm"
        self.train = _TrainingBatchNorm(library, settings)
        self.update = UpdateRunningStatistics(library, norm)
        self.evaluate = EvaluationOperator(library, name + "_evaluate", settings, shape)
        # A shortcut is only added where no ReLU follows the BN.
        self.train_add: nn.Cell = None
        self.evaluate_add: nn.Cell = None
        if not relu:
            self.train_add = _TrainingBatchNormAdd(library, settings)
            self.evaluate_add = EvaluationOperator(library, name + "_add_evaluate", settings, shape)

    def construct(self, x, gamma, beta, mean, variance, shortcut=None):
        if not self.training:
            if shortcut is None:
                return self.evaluate(x, gamma, beta, mean, variance)
            return self.evaluate_add(x, gamma, beta, mean, variance, shortcut)
        if shortcut is None:
            y, saved = self.train(x, read_once(gamma), read_once(beta))
        else:
            y, saved = self.train_add(x, read_once(gamma), read_once(beta), shortcut)
        return ops.depend(y, self.update(x, saved, mean, variance))


class _TrainingBatchNorm(nn.Cell):
    """The normalised maps, and the batch statistics, which the gradient needs."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, x, gamma, beta):
            return x, [2 * x[1]]

        def gradients(_, x, gamma, beta, saved, dy):
            return x, gamma, beta

        self.forward = custom_operator(library, "ghost_batch_norm", shapes, 2)
        self.backward = custom_operator(library, "ghost_batch_norm_backward", gradients, 3)

    def construct(self, x, gamma, beta):
        return self.forward(self.settings, x, gamma, beta)

    def bprop(self, x, gamma, beta, out, dout):
        return self.backward(self.settings, x, gamma, beta, out[1], dout[0])


class _TrainingBatchNormAdd(nn.Cell):
    """As :class:`_TrainingBatchNorm`, with a shortcut that is added before a last ReLU."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, x, gamma, beta, shortcut):
            return x, [2 * x[1]]

        def gradients(_, x, gamma, beta, saved, dy, y):
            return x, gamma, beta, x

        self.forward = custom_operator(library, "ghost_batch_norm_add", shapes, 2)
        self.backward = custom_operator(library, "ghost_batch_norm_add_backward", gradients, 4)

    def construct(self, x, gamma, beta, shortcut):
        return self.forward(self.settings, x, gamma, beta, shortcut)

    def bprop(self, x, gamma, beta, shortcut, out, dout):
        return self.backward(self.settings, x, gamma, beta, out[1], dout[0], out[0])


class NativeBatchNorm2d(NativeCell, nn.BatchNorm2d):
    """An ``nn.BatchNorm2d`` on :class:`BatchNorm`."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return is_plain_batch_norm(cell)

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return BatchNorm(library, cell)

    def construct(self, x):
        return self.operator(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)


class NativeConvNormAct(NativeCell, ConvNormAct):
    """A ``ConvNormAct`` whose BN and ReLU are one operator."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return type(cell.act) is nn.ReLU and is_plain_batch_norm(cell.bn)

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return BatchNorm(library, cell.bn, relu=True)

    @staticmethod
    def fused(cell: nn.Cell) -> Sequence[nn.Cell]:
        return (cell.bn,)

    def construct(self, x):
        return self.operator(self.conv(x), *norm_parameters(self.bn))


def norm_parameters(bn):
    """Parameters of a BN in the order in which :class:`BatchNorm` takes them."""
    return bn.gamma, bn.beta, bn.moving_mean, bn.moving_variance
