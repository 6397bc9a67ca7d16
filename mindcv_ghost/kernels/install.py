"""Install native operators in the cells of a network that they support exactly; remove them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mindspore import nn

from mindcv_ghost.kernels.batch_norm import NativeBatchNorm2d, NativeConvNormAct
from mindcv_ghost.kernels.convolution import NativeConv2d, NativeDepthwiseConv2d
from mindcv_ghost.kernels.exchange import (
    exchange,
    holders_of,
    is_native,
    native_classes,
    ordinary_cells,
    restore,
)
from mindcv_ghost.kernels.ghost_tail import NativeGhostModule
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell
from mindcv_ghost.layers import GhostModule

__all__ = ["Report", "forget_graphs", "install", "uninstall"]


@dataclass(frozen=True)
class Report:
    """Which layers of a network use native operators.

    ``str()`` of it is a line for the log. As a context manager it undoes at the end of the block
    what the call that returned it has done.

    Args:
        native_ghost_modules: Ghost modules on native operators.
        ghost_modules: all Ghost modules of the network.
        convolutions: dense convolutions on native operators.
        reason: why some Ghost modules, or all layers, stay on MindSpore's operators; else empty.
        threads: that the operators run on; 0 if none is used.
        library: path of the operators, which depends on their code; empty if none is used.
        depthwise: depthwise convolutions on native operators, without those in Ghost modules.
        norms: batch normalisations on native operators, without those in Ghost modules.
        exchanged: the cells that the call has changed; none of those that were native before.
    """

    native_ghost_modules: int
    ghost_modules: int
    convolutions: int
    reason: str
    threads: int
    library: str = ""
    depthwise: int = 0
    norms: int = 0
    exchanged: tuple[nn.Cell, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def stock(cls, network: nn.Cell, reason: str) -> Report:
        """Report that a network stays on MindSpore's operators, and why."""
        return cls(0, _count_ghost_modules(c for _, c in network.cells_and_names()), 0, reason, 0)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *error: object) -> None:
        uninstall(self.exchanged)

    def __str__(self) -> str:
        if self.threads == 0:
            return f"MindSpore's operators: {self.reason}"
        parts = [
            _count(self.convolutions, "convolution"),
            _count(self.depthwise, "depthwise convolution"),
            _count(self.norms, "batch norm"),
        ]
        if self.ghost_modules:
            parts.insert(
                0, f"{self.native_ghost_modules} of {_count(self.ghost_modules, 'Ghost module')}"
            )
        rest = f"; MindSpore's for the other Ghost modules: {self.reason}" if self.reason else ""
        return f"native operators for {', '.join(parts)}, {_count(self.threads, 'thread')}{rest}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def install(network: nn.Cell, library: Library) -> Report:
    """Exchange every cell that a native class supports; see :func:`mindcv_ghost.accelerate`.

    Args:
        network: changed in place. Some of its cells may be native already.
        library: that has the operators.
    """
    cells = [cell for _, cell in network.cells_and_names()]
    with ordinary_cells(network):
        wanted = native_classes(cells)
    changed = [(cell, native) for cell, native in zip(cells, wanted) if type(cell) is not native]
    for cell, native in changed:
        if is_native(cell):
            restore(cell)
        if issubclass(native, NativeCell):
            exchange(cell, native, library)
    if changed:
        forget_graphs(network)
    exchanged = tuple(cell for cell, native in changed if issubclass(native, NativeCell))
    return _report(Counter(wanted), _count_ghost_modules(cells), library, exchanged)


def _report(
    counts: Counter[type[nn.Cell]],
    ghost_modules: int,
    library: Library,
    exchanged: tuple[nn.Cell, ...],
) -> Report:
    reason = ""
    if counts[NativeGhostModule] < ghost_modules:
        reason = "they aren't made of plain convolutions, BN and ReLU"
    return Report(
        native_ghost_modules=counts[NativeGhostModule],
        ghost_modules=ghost_modules,
        convolutions=counts[NativeConv2d],
        reason=reason,
        threads=library.threads,
        library=str(library.path),
        depthwise=counts[NativeDepthwiseConv2d],
        norms=counts[NativeBatchNorm2d] + counts[NativeConvNormAct],
        exchanged=exchanged,
    )


def _count_ghost_modules(cells: Iterable[nn.Cell]) -> int:
    return sum(isinstance(cell, GhostModule) for cell in cells)


def uninstall(cells: Iterable[nn.Cell]) -> None:
    """Undo :func:`install` for some cells, and for the native cells that contain any of them.

    A native block calls what only a native module has, wherever in a network it stands.

    Args:
        cells: of any kind; those that aren't native stay as they are.
    """
    natives = [cell for cell in cells if is_native(cell)]
    if not natives:
        return
    for cell in holders_of(natives):
        restore(cell)
    forget_graphs(natives[0])


def forget_graphs(cell: nn.Cell) -> None:
    """Let MindSpore compile every graph anew before its next run.

    MindSpore 2.7 to 2.10 recognise a compiled graph by the cell's identity, not by its class or its
    cells, and would go on with the graph of the operators before. The key of a graph also has the
    number of times that hooks were registered and removed (``common/hook_handle.py``), for the
    same reason: a hook changes what a cell computes. It counts for the cells and functions around
    the network, too, which can't be found from here.

    Args:
        cell: any.
    """

    def hook(cell: nn.Cell, inputs: Any) -> None:
        return None

    cell.register_forward_pre_hook(hook).remove()
