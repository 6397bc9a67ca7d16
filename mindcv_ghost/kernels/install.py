"""Which cells of a network get native operators: those that a native class supports exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mindspore import nn

from mindcv_ghost.kernels.batch_norm import NativeBatchNorm2d
from mindcv_ghost.kernels.convolution import NativeConv2d, NativeDepthwiseConv2d
from mindcv_ghost.kernels.exchange import exchange, native_class
from mindcv_ghost.kernels.ghost_tail import NativeGhostModule
from mindcv_ghost.kernels.library import Library, Unavailable, load, threads_for
from mindcv_ghost.kernels.native_cell import NativeCell
from mindcv_ghost.layers import GhostModule

__all__ = ["Report", "install", "use_native"]


@dataclass(frozen=True)
class Report:
    """Which layers of a network use native operators.

    Args:
        native_ghost_modules: Ghost modules on native operators.
        ghost_modules: all Ghost modules of the network.
        convolutions: dense convolutions on native operators.
        reason: why some Ghost modules, or all layers, stay on MindSpore's operators; else empty.
        threads: that the operators run on; 0 if none is used.
        library: path of the operators, which depends on their code; empty if none is used.
        depthwise: depthwise convolutions on native operators, without those in Ghost modules.
        norms: batch normalisations on native operators, without those in Ghost modules.
    """

    native_ghost_modules: int
    ghost_modules: int
    convolutions: int
    reason: str
    threads: int
    library: str = ""
    depthwise: int = 0
    norms: int = 0

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


def use_native(
    network: nn.Cell,
    *,
    wanted: bool,
    device: str,
    graph_mode: bool,
    amp_level: str,
    local_ranks: int = 1,
) -> Report:
    """Let native operators compute the layers of a network that they support.

    Parameters stay the same objects with the same names. This is for training and evaluation: a
    network that is exported, analysed or changed must be so before, or be another one.

    Args:
        network: changed in place, before it is compiled.
        wanted: False to leave everything as it is.
        device: Ascend, GPU or CPU; native operators are for the CPU.
        graph_mode: whether the network will be compiled; native operators are for graph mode.
        amp_level: mixed precision; native operators are for O0.
        local_ranks: processes that share this machine's cores.

    Returns:
        What was done; ``str()`` of it is a line for the log. A missing compiler is no error.
    """
    reason = ""
    if not wanted:
        reason = "native_kernels is false"
    elif not any(_may_be_native(cell) for _, cell in network.cells_and_names()):
        reason = "no layer has a native operator"
    elif device != "CPU":
        reason = f"native operators are for the CPU, not {device}"
    elif not graph_mode:
        reason = "native operators are for graph mode"
    elif amp_level != "O0":
        reason = f"native operators are for float32, not amp level {amp_level}"
    if not reason:
        try:
            return install(network, load(threads_for(local_ranks)))
        except Unavailable as error:
            reason = str(error)
    return Report(0, _count_ghost_modules(network), 0, reason, 0)


def _may_be_native(cell: nn.Cell) -> bool:
    return isinstance(cell, GhostModule) or native_class(cell) is not None


def install(network: nn.Cell, library: Library) -> Report:
    """Exchange every cell that a native class supports; see :func:`use_native`.

    Args:
        network: changed in place, before it is compiled.
        library: that has the operators.
    """
    cells = [cell for _, cell in network.cells_and_names()]
    # Decide for all cells before the first is exchanged: a block looks at the modules in it.
    found = [(cell, native_class(cell)) for cell in cells]
    exchanged = [(cell, native) for cell, native in found if native is not None]
    fused = {id(part) for cell, native in exchanged for part in native.fused(cell)}
    counts: Counter[type[NativeCell]] = Counter()
    for cell, native in exchanged:
        if id(cell) not in fused:
            exchange(cell, native, library)
            counts[native] += 1
    ghost_modules = _count_ghost_modules(network)
    reason = ""
    if counts[NativeGhostModule] < ghost_modules:
        reason = "they don't have BN and ReLU in the paper's order"
    return Report(
        native_ghost_modules=counts[NativeGhostModule],
        ghost_modules=ghost_modules,
        convolutions=counts[NativeConv2d],
        reason=reason,
        threads=library.threads,
        library=str(library.path),
        depthwise=counts[NativeDepthwiseConv2d],
        norms=counts[NativeBatchNorm2d],
    )


def _count_ghost_modules(network: nn.Cell) -> int:
    return sum(isinstance(cell, GhostModule) for _, cell in network.cells_and_names())
