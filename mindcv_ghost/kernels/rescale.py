"""Feature maps times weights: squeeze-and-excitation and DFC attention."""

from __future__ import annotations

from mindspore import nn

from mindcv_ghost.kernels.custom_op import custom_operator
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell
from mindcv_ghost.layers import DFCAttention, SqueezeExcite
from mindcv_ghost.models.ghostnet_v2 import AttentionGhostModule
from mindcv_ghost.models.ghostnet_v3 import GhostV3Module

__all__ = [
    "NativeAttentionGhostModule",
    "NativeGhostV3Module",
    "NativeSqueezeExcite",
    "Rescale",
]


class Rescale(nn.Cell):
    """Feature maps times weights, which are enlarged to the maps' size by repetition ("nearest").

    Args:
        library: that has the operators.

    Inputs: x (N, C, H, W) and weight (N, C, h, w), h up to H and w up to W. Outputs: (N, C, H, W).
    """

    def __init__(self, library: Library) -> None:
        super().__init__(auto_prefix=False)

        def first(x, *others):
            return x

        def gradients(x, weight, dy):
            return x, weight

        self.forward = custom_operator(library, "ghost_rescale", first, 1)
        self.backward = custom_operator(library, "ghost_rescale_backward", gradients, 2)

    def construct(self, x, weight):
        return self.forward(x, weight)

    def bprop(self, x, weight, out, dout):
        return self.backward(x, weight, dout)


class NativeSqueezeExcite(NativeCell, SqueezeExcite):
    """A ``SqueezeExcite`` on :class:`Rescale`."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return True

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return Rescale(library)

    def construct(self, x):
        return self.operator(x, self.weights(x))


class NativeAttentionGhostModule(NativeCell, AttentionGhostModule):
    """GhostNetV2's Ghost module with attention on :class:`Rescale`."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return type(cell.attention) is DFCAttention

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return Rescale(library)

    def construct(self, x):
        return self.operator(self.ghost(x), self.attention.half_size(x))


class NativeGhostV3Module(NativeCell, GhostV3Module):
    """GhostNetV3's Ghost module, where it has attention, on :class:`Rescale`."""

    attention: DFCAttention

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return type(cell.attention) is DFCAttention

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return Rescale(library)

    def construct(self, x):
        return self.operator(self.ghost(x), self.attention.half_size(x))
