"""The tail of a ResNet's stem: BN, ReLU and max pooling after the first convolution."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn, ops

from mindcv_ghost.kernels.batch_norm import UpdateRunningStatistics
from mindcv_ghost.kernels.convolution import NativeConv2d
from mindcv_ghost.kernels.custom_op import (
    EvaluationOperator,
    custom_operator,
    read_once,
    settings_tensor,
)
from mindcv_ghost.kernels.evaluation import NativeNetwork
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import emit, is_plain_batch_norm, is_plain_conv
from mindcv_ghost.kernels.program import Activation, Kind, Maps, NotCovered, Program
from mindcv_ghost.layers import StemMaxPool
from mindcv_ghost.models.ghost_resnet import GhostResNet

__all__ = ["NativeGhostResNet", "StemTail"]


class StemTail(nn.Cell):
    """BN, ReLU and max pooling (3x3, stride 2), in training and in evaluation.

    Args:
        library: that has the operators.
        norm: the BN, whose epsilon and momentum are read here.

    Inputs: u (N, C, H, W), gamma, beta, running mean, running variance.
    Outputs: (N, C, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, library: Library, norm: nn.BatchNorm2d) -> None:
        super().__init__(auto_prefix=False)
        self.library = library
        settings = settings_tensor(norm.eps)

        def shape(_, u, *others):
            return [u[0], u[1], (u[2] + 1) // 2, (u[3] + 1) // 2]

        self.train = _TrainingStemTail(library, settings)
        self.update = UpdateRunningStatistics(library, norm)
        self.evaluate = EvaluationOperator(library, "ghost_stem_evaluate", settings, shape)

    def construct(self, u, gamma, beta, mean, variance):
        if not self.training:
            return self.evaluate(u, gamma, beta, mean, variance)
        y, saved = self.train(u, read_once(gamma), read_once(beta))
        return ops.depend(y, self.update(u, saved, mean, variance))


class _TrainingStemTail(nn.Cell):
    """The pooled maps, and the batch statistics, which the gradient needs."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma, beta):
            return [u[0], u[1], (u[2] + 1) // 2, (u[3] + 1) // 2], [2 * u[1]]

        def gradients(_, u, gamma, beta, saved, dy):
            return u, gamma, beta

        self.forward = custom_operator(library, "ghost_stem", shapes, 2)
        self.backward = custom_operator(library, "ghost_stem_backward", gradients, 3)

    def construct(self, u, gamma, beta):
        return self.forward(self.settings, u, gamma, beta)

    def bprop(self, u, gamma, beta, out, dout):
        return self.backward(self.settings, u, gamma, beta, out[1], dout[0])


class NativeGhostResNet(NativeNetwork, GhostResNet):
    """A ``GhostResNet`` with a stem on :class:`StemTail`; one operator in evaluation."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return (
            is_plain_conv(cell.conv1)
            and is_plain_batch_norm(cell.bn1)
            and type(cell.relu) is nn.ReLU
            and type(cell.max_pool) is StemMaxPool
        )

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return StemTail(library, cell.bn1)

    @staticmethod
    def fused(cell: nn.Cell) -> Sequence[nn.Cell]:
        return (cell.bn1,)

    @staticmethod
    def skipped(cell: nn.Cell) -> Sequence[nn.Cell]:
        return cell.bn1, cell.relu, cell.max_pool

    def stem(self, x):
        bn = self.bn1
        return self.operator(self.conv1(x), bn.gamma, bn.beta, bn.moving_mean, bn.moving_variance)

    def emit(self, program: Program, x: Maps) -> Maps:
        """Add the steps of the whole network."""
        if not isinstance(self.conv1, NativeConv2d):
            raise NotCovered("the first convolution isn't native")
        x = program.convolution(x, self.conv1, self.bn1, Activation.RELU, kind=Kind.STEM)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = emit(program, stage, x)
        return emit(program, self.classifier, emit(program, self.pool, x))

    def construct(self, x):
        if not self.training and self.evaluation is not None:
            return self.evaluation(x)
        return super().construct(x)
