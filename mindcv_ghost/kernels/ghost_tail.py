"""The tail of a Ghost module: everything after its primary convolution, as one operator.

That is BN and ReLU, the depthwise (cheap) convolution with its own BN and ReLU, and the
concatenation. In the residual blocks of Ghost-ResNet the last module's tail also adds the shortcut
and applies the ReLU that follows. In networks that ``ghostify`` has changed, the network applies
the ReLU itself, and the maps may be permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from mindspore import dtype as mstype
from mindspore import nn, ops

from mindcv_ghost.kernels.batch_norm import (
    BatchNorm,
    UpdateRunningStatistics,
    norm_parameters,
)
from mindcv_ghost.kernels.convolution import NativeConv2d, is_padded_by_half
from mindcv_ghost.kernels.custom_op import (
    custom_operator,
    read_once,
    settings_tensor,
)
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import (
    NativeCell,
    emit,
    is_plain_batch_norm,
    is_plain_conv,
)
from mindcv_ghost.kernels.program import Activation, Kind, Maps, NotCovered, Program
from mindcv_ghost.layers import GhostModule
from mindcv_ghost.models.ghost_resnet import GhostBasicBlock, GhostBottleneck

__all__ = [
    "GhostTail",
    "NativeGhostBasicBlock",
    "NativeGhostBottleneck",
    "NativeGhostModule",
    "ReLUs",
    "can_add",
    "can_fork",
]


class ReLUs(IntEnum):
    """Where the ReLUs of a tail are, as the operators number it."""

    NONE = 0
    AFTER_EACH_NORM = 1
    BEFORE_CHEAP_CONVOLUTION = 2


class GhostTail(nn.Cell):
    """The tail of a Ghost module, in training and in evaluation.

    Args:
        library: that has the operators.
        first: the BN of the intrinsic maps, whose epsilon and momentum are read here.
        second: the BN of the ghost maps.
        out_channels: maps that go out; surplus ghost maps are cropped.
        relus: where ReLUs are.

    Inputs:
        u (N, intrinsic, H, W), gamma, beta, running mean and running variance of ``first``, the
        depthwise weight (ghosts, 1, d, d), the same four of ``second``; a shortcut
        (N, out_channels, H, W), or None; the order of the maps that go out, of shape
        (out_channels,), or None. A shortcut can't follow ``ReLUs.AFTER_EACH_NORM``.

    Outputs:
        (N, out_channels, H, W): the maps, or with a shortcut ``relu(maps + shortcut)``.
    """

    def __init__(
        self,
        library: Library,
        first: nn.BatchNorm2d,
        second: nn.BatchNorm2d,
        out_channels: int,
        relus: ReLUs,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings_tensor(relus, first.eps, second.eps)

        def shape(_, u, *others):
            return [u[0], out_channels, u[2], u[3]]

        self.train = _TrainingTail(library, out_channels)
        self.update = UpdateRunningStatistics(library, first, second)
        name, constants = "ghost_tail_evaluate", [out_channels]
        self.evaluate = custom_operator(library, name, shape, 1, constants)
        # A shortcut is only added where no ReLU follows the BNs.
        self.train_add: nn.Cell = None
        self.evaluate_add: ops.Custom = None
        if relus != ReLUs.AFTER_EACH_NORM:
            name = "ghost_tail_add_evaluate"
            self.train_add = _TrainingTailAdd(library)
            self.evaluate_add = custom_operator(library, name, shape, 1, constants)

    def construct(
        self,
        u,
        gamma1,
        beta1,
        mean1,
        var1,
        weight,
        gamma2,
        beta2,
        mean2,
        var2,
        shortcut=None,
        order=None,
    ):
        settings = self.settings
        if order is not None:
            settings = ops.concat((settings, ops.cast(order, mstype.float32)))
        if not self.training:
            inputs = (settings, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2)
            if shortcut is None:
                return self.evaluate(*inputs)
            return self.evaluate_add(*inputs, shortcut)
        first = (read_once(gamma1), read_once(beta1))
        second = (read_once(weight), read_once(gamma2), read_once(beta2))
        if shortcut is None:
            y, saved = self.train(settings, u, *first, *second)
        else:
            y, saved = self.train_add(settings, u, *first, *second, shortcut)
        return ops.depend(y, self.update(u, saved, mean1, var1, mean2, var2))


class _TrainingTail(nn.Cell):
    """The maps, and the batch statistics of both BNs, which the gradient needs."""

    def __init__(self, library: Library, out_channels: int) -> None:
        super().__init__(auto_prefix=False)

        def shapes(_, u, gamma1, beta1, weight, gamma2, beta2):
            return [u[0], out_channels, u[2], u[3]], [2 * u[1] + 2 * weight[0]]

        def gradients(_, u, gamma1, beta1, weight, gamma2, beta2, saved, dy):
            return u, gamma1, beta1, weight, gamma2, beta2

        self.forward = custom_operator(library, "ghost_tail", shapes, 2, [out_channels])
        self.backward = custom_operator(library, "ghost_tail_backward", gradients, 6)

    def construct(self, settings, u, gamma1, beta1, weight, gamma2, beta2):
        return self.forward(settings, u, gamma1, beta1, weight, gamma2, beta2)

    def bprop(self, settings, u, gamma1, beta1, weight, gamma2, beta2, out, dout):
        inputs = (settings, u, gamma1, beta1, weight, gamma2, beta2)
        return (ops.zeros_like(settings), *self.backward(*inputs, out[1], dout[0]))


class _TrainingTailAdd(nn.Cell):
    """As :class:`_TrainingTail`, with a shortcut that is added before a last ReLU."""

    def __init__(self, library: Library) -> None:
        super().__init__(auto_prefix=False)

        def shapes(_, u, gamma1, beta1, weight, gamma2, beta2, shortcut):
            return shortcut, [2 * u[1] + 2 * weight[0]]

        def gradients(_, u, gamma1, beta1, weight, gamma2, beta2, saved, dy, y):
            return u, gamma1, beta1, weight, gamma2, beta2, y

        self.forward = custom_operator(library, "ghost_tail_add", shapes, 2)
        self.backward = custom_operator(library, "ghost_tail_add_backward", gradients, 7)

    def construct(self, settings, u, gamma1, beta1, weight, gamma2, beta2, shortcut):
        return self.forward(settings, u, gamma1, beta1, weight, gamma2, beta2, shortcut)

    def bprop(self, settings, u, gamma1, beta1, weight, gamma2, beta2, shortcut, out, dout):
        inputs = (settings, u, gamma1, beta1, weight, gamma2, beta2)
        return (ops.zeros_like(settings), *self.backward(*inputs, out[1], dout[0], out[0]))


class NativeGhostModule(NativeCell, GhostModule):
    """A ``GhostModule`` on :class:`GhostTail`; its primary convolution is exchanged by itself.

    Without a cheap branch (ratio 1) only BN, ReLU and shortcut are left, and the operator is a
    :class:`BatchNorm`.
    """

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        primary, cheap = cell.primary, cell.cheap
        if not (
            type(primary.act) in (nn.ReLU, type(None))
            and is_plain_batch_norm(primary.bn)
            and is_plain_conv(primary.conv)
        ):
            return False
        if cheap is None:
            return True
        activates_alone = cell.act is None or (type(cell.act) is nn.ReLU and primary.act is None)
        return (
            activates_alone
            and type(cheap.act) is type(primary.act)
            and is_plain_batch_norm(cheap.bn)
            and is_plain_conv(cheap.conv)
            and cheap.conv.has_bias is False
            and cheap.conv.group == primary.conv.out_channels
            and cheap.conv.kernel_size[0] == cheap.conv.kernel_size[1]
            and cheap.conv.stride == (1, 1)
            and is_padded_by_half(cheap.conv)
        )

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        primary, cheap = cell.primary, cell.cheap
        if cheap is None:
            return BatchNorm(library, primary.bn, primary.act is not None)
        relus = ReLUs.NONE if cell.act is None else ReLUs.BEFORE_CHEAP_CONVOLUTION
        relus = relus if primary.act is None else ReLUs.AFTER_EACH_NORM
        return GhostTail(library, primary.bn, cheap.bn, cell.out_channels, relus)

    @staticmethod
    def fused(cell: nn.Cell) -> Sequence[nn.Cell]:
        primary, cheap = cell.primary, cell.cheap
        if cheap is None:
            return primary, primary.bn
        return primary, primary.bn, cheap, cheap.conv, cheap.bn

    def construct(self, x):
        return self._tail(self.primary.conv(x), None)

    def fork(self, x):
        """Return the output, and x for a second branch; one operator adds up both gradients."""
        maps, x = self.primary.conv.fork(x)
        return self._tail(maps, None), x

    def add(self, x, shortcut):
        """Return ``relu(construct(x) + shortcut)``, all of it in the tail's operator."""
        return self._tail(self.primary.conv(x), shortcut)

    def emit(self, program: Program, x: Maps, **fields: Any) -> Maps:
        """Add the module as one step; ``fields``: ``other`` and ``outer`` of a step."""
        primary, cheap = self.primary, self.cheap
        if cheap is None or cheap.bn is None:
            raise NotCovered("a Ghost module has no cheap branch with a BN")
        if not isinstance(primary.conv, NativeConv2d):
            raise NotCovered("a primary convolution isn't native")
        if self.act is not None or self.order is not None:
            raise NotCovered(
                "a Ghost module's activation is the network's, or its maps are permuted"
            )
        return program.convolution(
            x,
            primary.conv,
            primary.bn,
            Activation.NONE if primary.act is None else Activation.RELU,
            kind=Kind.GHOST,
            channels=self.out_channels,
            cheap_weight=program.parameter(cheap.conv.weight),
            cheap_norm=program.norm(cheap.bn),
            cheap_epsilon=cheap.bn.eps,
            **fields,
        )

    def _tail(self, maps, shortcut):
        if self.cheap is None:
            return self.operator(maps, *norm_parameters(self.primary.bn), shortcut)
        parameters = _tail_parameters(self.primary, self.cheap)
        return self.operator(maps, *parameters, shortcut, self.order)


def _tail_parameters(primary, cheap):
    """Parameters of the two branches in the order in which :class:`GhostTail` takes them."""
    return (
        *norm_parameters(primary.bn),
        cheap.conv.weight,
        *norm_parameters(cheap.bn),
    )


def _emit_block(
    program: Program, modules: Sequence[nn.Cell], downsample: nn.Cell | None, x: Maps
) -> Maps:
    """Add the steps of a residual block; its last module adds the shortcut."""
    shortcut = x if downsample is None else emit(program, downsample, x)
    for module in modules[:-1]:
        x = emit(program, module, x)
    return modules[-1].emit(program, x, other=shortcut.number, outer=Activation.RELU)


def can_fork(module: nn.Cell) -> bool:
    """Whether a block's first module will have a :meth:`NativeGhostModule.fork`."""
    return (
        type(module) is GhostModule
        and NativeGhostModule.supports(module)
        and NativeConv2d.supports(module.primary.conv)
    )


def can_add(module: nn.Cell) -> bool:
    """Whether a block's last module will have a :meth:`NativeGhostModule.add`."""
    return (
        type(module) is GhostModule
        and NativeGhostModule.supports(module)
        and module.primary.act is None
    )


class NativeGhostBasicBlock(NativeCell, GhostBasicBlock):
    """A ``GhostBasicBlock`` of native Ghost modules: one gradient for its input, fused shortcut."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return can_fork(cell.conv1) and can_add(cell.conv2)

    def emit(self, program: Program, x: Maps) -> Maps:
        """Add the steps of both modules and of the shortcut."""
        return _emit_block(program, (self.conv1, self.conv2), self.downsample, x)

    def construct(self, x):
        y, shortcut = self.conv1.fork(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.conv2.add(y, shortcut)


class NativeGhostBottleneck(NativeCell, GhostBottleneck):
    """A ``GhostBottleneck`` of native Ghost modules: one gradient for its input, fused shortcut."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return can_fork(cell.conv1) and can_add(cell.conv3)

    def emit(self, program: Program, x: Maps) -> Maps:
        """Add the steps of the three modules and of the shortcut."""
        return _emit_block(program, (self.conv1, self.conv2, self.conv3), self.downsample, x)

    def construct(self, x):
        y, shortcut = self.conv1.fork(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.conv3.add(self.conv2(y), shortcut)
