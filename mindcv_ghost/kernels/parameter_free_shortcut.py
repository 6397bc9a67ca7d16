"""Residual blocks for small images, whose shortcut has no weights."""

from __future__ import annotations

from mindspore import nn

from mindcv_ghost.kernels.custom_op import custom_operator, settings_tensor
from mindcv_ghost.kernels.ghost_tail import can_add, can_fork
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell
from mindcv_ghost.models.ghost_resnet_cifar import GhostCifarBlock

__all__ = ["NativeGhostCifarBlock", "ParameterFreeShortcut"]


class ParameterFreeShortcut(nn.Cell):
    """Positions at a stride, and maps of zeros around the input's.

    Args:
        library: that has the operators.
        stride: of rows and columns.
        new_channels: maps of zeros, half of them before the input's.

    Inputs: (N, C, H, W). Outputs: (N, C + new_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, library: Library, stride: int, new_channels: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings_tensor(stride, new_channels // 2)

        def shape(_, x):
            return [x[0], x[1] + new_channels, -(-x[2] // stride), -(-x[3] // stride)]

        def last(_, dy, x):
            return x

        name, constants = "ghost_parameter_free_shortcut", [stride, new_channels]
        self.forward = custom_operator(library, name, shape, 1, constants)
        self.backward = custom_operator(library, name + "_backward", last, 1)

    def construct(self, x):
        return self.forward(self.settings, x)

    def bprop(self, x, out, dout):
        return (self.backward(self.settings, dout, x),)


class NativeGhostCifarBlock(NativeCell, GhostCifarBlock):
    """A ``GhostCifarBlock`` of native Ghost modules: one gradient for its input, fused shortcut."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return can_fork(cell.conv1) and can_add(cell.conv2)

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell | None:
        stride = 1 if cell.subsample is None else cell.subsample.stride
        if (stride, cell.new_channels) == (1, 0):
            return None
        return ParameterFreeShortcut(library, stride, cell.new_channels)

    def construct(self, x):
        y, shortcut = self.conv1.fork(x)
        if self.subsample is not None or self.new_channels > 0:
            shortcut = self.operator(shortcut)
        return self.conv2.add(y, shortcut)
