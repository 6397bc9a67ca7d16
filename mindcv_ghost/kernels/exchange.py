"""Exchange of a cell's class: an ordinary class for a native one with another ``construct``.

The cell stays the same object with the same parameters, name and place in the network. So
sequences, lists, optimizers and checkpoints that refer to it need not know.
"""

from __future__ import annotations

from mindspore import nn

from mindcv_ghost.kernels.batch_norm import NativeBatchNorm2d
from mindcv_ghost.kernels.convolution import NativeConv2d, NativeDepthwiseConv2d
from mindcv_ghost.kernels.ghost_tail import (
    NativeGhostBasicBlock,
    NativeGhostBottleneck,
    NativeGhostModule,
)
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell
from mindcv_ghost.kernels.pooling import NativeGlobalAvgPool
from mindcv_ghost.kernels.rescale import (
    NativeAttentionGhostModule,
    NativeGhostV3Module,
    NativeSqueezeExcite,
)
from mindcv_ghost.kernels.stem_tail import NativeGhostResNet
from mindcv_ghost.layers import GhostModule, GlobalAvgPool, SqueezeExcite
from mindcv_ghost.models.ghost_resnet import GhostBasicBlock, GhostBottleneck, GhostResNet
from mindcv_ghost.models.ghostnet_v2 import AttentionGhostModule
from mindcv_ghost.models.ghostnet_v3 import GhostV3Module

__all__ = ["NATIVE_CLASSES", "exchange", "native_class"]

NATIVE_CLASSES: dict[type[nn.Cell], tuple[type[NativeCell], ...]] = {
    nn.Conv2d: (NativeConv2d, NativeDepthwiseConv2d),
    nn.BatchNorm2d: (NativeBatchNorm2d,),
    GlobalAvgPool: (NativeGlobalAvgPool,),
    SqueezeExcite: (NativeSqueezeExcite,),
    GhostModule: (NativeGhostModule,),
    GhostBasicBlock: (NativeGhostBasicBlock,),
    GhostBottleneck: (NativeGhostBottleneck,),
    GhostResNet: (NativeGhostResNet,),
    AttentionGhostModule: (NativeAttentionGhostModule,),
    GhostV3Module: (NativeGhostV3Module,),
}
"""The native classes that can stand in for a class. Subclasses of a class are never exchanged."""


def native_class(cell: nn.Cell) -> type[NativeCell] | None:
    """Return the native class that computes exactly what a cell does; None if there is none."""
    for native in NATIVE_CLASSES.get(type(cell), ()):
        if native.supports(cell):
            return native
    return None


def exchange(cell: nn.Cell, native: type[NativeCell], library: Library) -> None:
    """Give a cell its native class and, where that needs one, its operator.

    Args:
        cell: changed in place, before it is compiled.
        native: as :func:`native_class` returns it.
        library: that has the operators.
    """
    operator = native.make_operator(cell, library)
    cell.__class__ = native
    if operator is not None:
        cell.operator = operator.set_train(cell.training)
