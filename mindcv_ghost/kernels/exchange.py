"""Exchange of a cell's class: an ordinary class for a native one with another ``construct``.

The cell stays the same object with the same parameters, name and place in the network. So
sequences, lists, optimizers and checkpoints that refer to it need not know. The exchange can be
undone at any time: a native class keeps nothing but its operator in the cell.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from mindcv.models.ghostnet import GhostNet
from mindspore import nn

from mindcv_ghost.kernels.batch_norm import NativeBatchNorm2d, NativeConvNormAct
from mindcv_ghost.kernels.channels_last_network import (
    NativeGhostNet,
    NativeGhostNetV2,
    NativeGhostNetV3,
    NativeRepGhostNet,
)
from mindcv_ghost.kernels.convolution import NativeConv2d, NativeDepthwiseConv2d
from mindcv_ghost.kernels.ghost_tail import (
    NativeGhostBasicBlock,
    NativeGhostBottleneck,
    NativeGhostModule,
)
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell, has_hooks
from mindcv_ghost.kernels.parameter_free_shortcut import NativeGhostCifarBlock
from mindcv_ghost.kernels.pooling import NativeGlobalAvgPool
from mindcv_ghost.kernels.rescale import (
    NativeAttentionGhostModule,
    NativeGhostV3Module,
    NativeSqueezeExcite,
)
from mindcv_ghost.kernels.stem_tail import NativeGhostResNet
from mindcv_ghost.layers import ConvNormAct, GhostModule, GlobalAvgPool, SqueezeExcite
from mindcv_ghost.models.ghost_resnet import GhostBasicBlock, GhostBottleneck, GhostResNet
from mindcv_ghost.models.ghost_resnet_cifar import GhostCifarBlock
from mindcv_ghost.models.ghostnet_v2 import AttentionGhostModule, GhostNetV2
from mindcv_ghost.models.ghostnet_v3 import GhostNetV3, GhostV3Module
from mindcv_ghost.models.repghost import RepGhostNet

__all__ = [
    "NATIVE_CLASSES",
    "exchange",
    "holders_of",
    "is_native",
    "native_class",
    "native_classes",
    "ordinary_cells",
    "restore",
]

NATIVE_CLASSES: dict[type[nn.Cell], tuple[type[NativeCell], ...]] = {
    nn.Conv2d: (NativeConv2d, NativeDepthwiseConv2d),
    nn.BatchNorm2d: (NativeBatchNorm2d,),
    GlobalAvgPool: (NativeGlobalAvgPool,),
    SqueezeExcite: (NativeSqueezeExcite,),
    GhostModule: (NativeGhostModule,),
    GhostBasicBlock: (NativeGhostBasicBlock,),
    GhostCifarBlock: (NativeGhostCifarBlock,),
    ConvNormAct: (NativeConvNormAct,),
    GhostBottleneck: (NativeGhostBottleneck,),
    GhostResNet: (NativeGhostResNet,),
    AttentionGhostModule: (NativeAttentionGhostModule,),
    GhostV3Module: (NativeGhostV3Module,),
    GhostNet: (NativeGhostNet,),
    GhostNetV2: (NativeGhostNetV2,),
    GhostNetV3: (NativeGhostNetV3,),
    RepGhostNet: (NativeRepGhostNet,),
}
"""The native classes that can stand in for a class. Subclasses of a class are never exchanged."""


_ORDINARY_CLASSES = {
    native: ordinary for ordinary, natives in NATIVE_CLASSES.items() for native in natives
}


# Every cell with a native class, as long as it is alive.
_natives: weakref.WeakSet[nn.Cell] = weakref.WeakSet()


def is_native(cell: object) -> bool:
    """Whether a cell's class has been exchanged for a native one."""
    return type(cell) in _ORDINARY_CLASSES


def native_class(cell: nn.Cell) -> type[NativeCell] | None:
    """Return the native class that computes exactly what a cell does; None if there is none."""
    for native in NATIVE_CLASSES.get(type(cell), ()):
        if native.supports(cell) and not any(map(has_hooks, native.skipped(cell))):
            return native
    return None


def native_classes(cells: Iterable[nn.Cell]) -> list[type[nn.Cell]]:
    """Return the class that each cell of a network gets: a native one, or the one that it has.

    Args:
        cells: all of them. They have their ordinary classes, because a block looks at the modules
            in it.
    """
    natives = [native_class(cell) for cell in cells]
    fused = {
        id(part) for cell, native in zip(cells, natives) if native for part in native.fused(cell)
    }
    return [
        type(cell) if native is None or id(cell) in fused else native
        for cell, native in zip(cells, natives)
    ]


def exchange(cell: nn.Cell, native: type[NativeCell], library: Library) -> None:
    """Give a cell its native class and, where that needs one, its operator.

    Args:
        cell: changed in place.
        native: as :func:`native_class` returns it.
        library: that has the operators.
    """
    operator = native.make_operator(cell, library)
    cell.__class__ = native
    _natives.add(cell)
    if operator is not None:
        cell.operator = operator.set_train(cell.training)


def restore(cell: nn.Cell) -> None:
    """Undo :func:`exchange`."""
    _natives.discard(cell)
    cell.__class__ = _ORDINARY_CLASSES[type(cell)]
    # Not by delattr: a class other than nn.Cell's may have an attribute of this name.
    cell._cells.pop("operator", None)


def holders_of(natives: Sequence[nn.Cell]) -> list[nn.Cell]:
    """Find the native cells that contain any of these native cells, beginning with themselves."""
    ids = {id(cell) for cell in natives}
    others = [cell for cell in _natives if id(cell) not in ids]
    return [
        *natives,
        *(o for o in others if any(id(cell) in ids for _, cell in o.cells_and_names())),
    ]


@contextmanager
def ordinary_cells(network: nn.Cell) -> Iterator[None]:
    """Give all cells of a network their ordinary classes inside the ``with`` block.

    Compiled graphs aren't affected: this is for looking at a network, and for running it eagerly.
    """
    cells = [cell for _, cell in network.cells_and_names() if is_native(cell)]
    natives = [(cell, type(cell), cell._cells.get("operator")) for cell in cells]
    for cell in cells:
        restore(cell)
    try:
        yield
    finally:
        for cell, native, operator in natives:
            cell.__class__ = native
            _natives.add(cell)
            if operator is not None:
                cell._cells["operator"] = operator
