"""Global average pooling."""

from __future__ import annotations

from mindspore import nn

from mindcv_ghost.kernels.custom_op import custom_operator
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell
from mindcv_ghost.kernels.program import Kind, Maps, Program
from mindcv_ghost.layers import GlobalAvgPool

__all__ = ["Mean", "NativeGlobalAvgPool"]


class Mean(nn.Cell):
    """The mean over all positions of every feature map.

    Args:
        library: that has the operators.
        keep_dims: put out maps of one position instead of plain features.

    Inputs: x (N, C, H, W). Outputs: (N, C), or (N, C, 1, 1) with ``keep_dims``.
    """

    def __init__(self, library: Library, keep_dims: bool) -> None:
        super().__init__(auto_prefix=False)

        def shape(x):
            return [x[0], x[1], 1, 1] if keep_dims else [x[0], x[1]]

        def last(dy, x):
            return x

        self.forward = custom_operator(library, "ghost_mean", shape, 1, [keep_dims])
        self.backward = custom_operator(library, "ghost_mean_backward", last, 1)

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, out, dout):
        return (self.backward(dout, x),)


class NativeGlobalAvgPool(NativeCell, GlobalAvgPool):
    """A ``GlobalAvgPool`` on :class:`Mean`."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return True

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return Mean(library, cell.keep_dims)

    def emit(self, program: Program, x: Maps) -> Maps:
        """Add the mean, as maps of one position."""
        return program.add(Kind.MEAN, x, program.maps(x.channels, 0))

    def construct(self, x):
        return self.operator(x)
