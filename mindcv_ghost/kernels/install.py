"""Putting the operators into a network, cell by cell, where they compute exactly what it says."""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import nn

from mindcv_ghost.kernels.exchange import is_dense, is_float, is_plain_norm, kind_of, replace
from mindcv_ghost.kernels.library import Library, Unavailable, load, threads_for
from mindcv_ghost.kernels.operators import Convolution, GhostTail, StemTail
from mindcv_ghost.layers import GhostModule, StemMaxPool

__all__ = ["Report", "use_library", "use_native"]


@dataclass(frozen=True)
class Report:
    """What computes a network's layers.

    Args:
        native: Ghost modules on operators of our own.
        ghost_modules: Ghost modules in the network.
        convolutions: dense convolutions on operators of our own.
        reason: why not all Ghost modules, or none of the layers, are; empty if all are.
        threads: threads of the operators; 0 if none is used.
        library: path of the operators, which names their code; empty if none is used.
        depthwise: depthwise convolutions on operators of our own, Ghost modules' not counted.
        norms: batch normalisations on operators of our own, Ghost modules' not counted.
    """

    native: int
    ghost_modules: int
    convolutions: int
    reason: str
    threads: int
    library: str = ""
    depthwise: int = 0
    norms: int = 0

    def __str__(self) -> str:
        if self.threads == 0:
            return f"stock operators: {self.reason}"
        parts = [
            _count(self.convolutions, "convolution"),
            _count(self.depthwise, "depthwise convolution"),
            _count(self.norms, "batch norm"),
        ]
        if self.ghost_modules:
            parts.insert(0, f"{self.native} of {_count(self.ghost_modules, 'Ghost module')}")
        rest = f"; the others stock: {self.reason}" if self.reason else ""
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
    """Have a network's layers computed by our own operators, where that can be.

    Parameters stay as they are, objects and names. For training and evaluation: whoever exports a
    network, looks into it or takes it apart should do so before, or with another one.

    Args:
        network: changed in place, before it is compiled.
        wanted: False to leave everything as it is.
        device: Ascend, GPU or CPU; only the CPU has such operators.
        graph_mode: whether the network will be compiled; PyNative keeps stock operators.
        amp_level: mixed precision; anything but O0 keeps stock operators.
        local_ranks: processes that share this machine's cores.

    Returns:
        What was done; ``str()`` of it is a line for the log. Missing compilers are no error.
    """
    modules = sum(isinstance(cell, GhostModule) for _, cell in network.cells_and_names())
    reason = ""
    if not wanted:
        reason = "native_kernels is false"
    elif not any(_is_candidate(cell) for _, cell in network.cells_and_names()):
        reason = "there is no layer that they compute"
    elif device != "CPU":
        reason = f"native ones are for the CPU, not {device}"
    elif not graph_mode:
        reason = "native ones are for graph mode"
    elif amp_level != "O0":
        reason = f"native ones are for float32, not amp level {amp_level}"
    if not reason:
        try:
            return use_library(network, load(threads_for(local_ranks)))
        except Unavailable as error:
            reason = str(error)
    return Report(0, modules, 0, reason, 0)


def use_library(network: nn.Cell, library: Library) -> Report:
    """As :func:`use_native`, with a library that is already there."""
    modules, native, convolutions = 0, 0, 0
    done = set()  # cells whose work another one does
    cells = [cell for _, cell in network.cells_and_names()]
    for cell in cells:
        if isinstance(cell, GhostModule):
            modules += 1
            if _fits(cell):
                native += 1
                primary, cheap = cell.primary, cell.cheap
                relu = primary.act is not None
                tail = GhostTail(library, primary.bn, cheap.bn, cell.out_channels, relu)
                convolutions += _attach_convolution(cell, primary.conv, library)
                _attach(cell, "native_tail", tail)
                done |= {id(part) for part in (primary.conv, primary.bn, cheap.conv, cheap.bn)}
        elif _has_stem(cell):
            convolutions += _attach_convolution(cell, cell.conv1, library)
            _attach(cell, "native_stem", StemTail(library, cell.bn1))
            done |= {id(part) for part in (cell.conv1, cell.bn1)}
    found = {"convolution": 0, "depthwise": 0, "norm": 0, "map": 0}
    for cell in cells:
        kind = kind_of(cell)
        if kind and id(cell) not in done:
            replace(cell, library)
            found[kind] += 1
    convolutions += found["convolution"]
    reason = ""
    if native < modules:
        reason = "other activations, normalisations or orders than BN, ReLU and the paper's"
    return Report(
        native,
        modules,
        convolutions,
        reason,
        library.threads,
        str(library.path),
        found["depthwise"],
        found["norm"],
    )


def _is_candidate(cell: nn.Cell) -> bool:
    return isinstance(cell, GhostModule) or kind_of(cell) != ""


def _attach(cell: nn.Cell, name: str, native: nn.Cell) -> None:
    native.set_train(cell.training)
    setattr(cell, name, native)


def _attach_convolution(cell: nn.Cell, conv: nn.Conv2d, library: Library) -> int:
    if not is_dense(conv):
        return 0
    _attach(cell, "native_conv", Convolution(library, conv.stride[0]))
    return 1


def _fits(module: GhostModule) -> bool:
    """Whether the tail's operator computes what this module does."""
    if type(module) is not GhostModule or module.cheap is None:
        return False
    primary, cheap = module.primary, module.cheap
    acts = {type(primary.act), type(cheap.act)}
    return (
        module.act is None
        and module.order is None
        and acts in ({nn.ReLU}, {type(None)})
        and is_plain_norm(primary.bn)
        and is_plain_norm(cheap.bn)
        and is_float(primary.conv)
        and is_float(cheap.conv)
        and cheap.conv.has_bias is False
        and cheap.conv.group == primary.conv.out_channels
    )


def _has_stem(cell: nn.Cell) -> bool:
    return (
        "native_stem" in cell.__dict__
        and isinstance(getattr(cell, "max_pool", None), StemMaxPool)
        and type(cell.relu) is nn.ReLU
        and is_plain_norm(cell.bn1)
        and is_float(cell.conv1)
    )
