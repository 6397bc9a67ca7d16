"""Putting the operators into a network, cell by cell, where they compute exactly what it says."""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import dtype as mstype
from mindspore import nn

from mindcv_ghost.kernels.library import Library, Unavailable, load, threads_for
from mindcv_ghost.kernels.operators import Convolution, GhostTail, StemTail
from mindcv_ghost.layers import GhostModule, StemMaxPool

__all__ = ["Report", "use_library", "use_native"]


@dataclass(frozen=True)
class Report:
    """What computes a network's Ghost modules.

    Args:
        native: Ghost modules on operators of our own.
        ghost_modules: Ghost modules in the network.
        convolutions: dense convolutions on operators of our own.
        reason: why not all are; empty if all are.
        threads: threads of the operators; 0 if none is used.
        library: path of the operators, which names their code; empty if none is used.
    """

    native: int
    ghost_modules: int
    convolutions: int
    reason: str
    threads: int
    library: str = ""

    def __str__(self) -> str:
        if self.native == 0:
            return f"stock operators: {self.reason}"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        rest = f"; the others stock: {self.reason}" if self.reason else ""
        return (
            f"native operators for {self.native} of {self.ghost_modules} Ghost modules and "
            f"{self.convolutions} convolutions, {threads}{rest}"
        )


def use_native(
    network: nn.Cell,
    *,
    wanted: bool,
    device: str,
    graph_mode: bool,
    amp_level: str,
    local_ranks: int = 1,
) -> Report:
    """Have a network's Ghost modules computed by our own operators, where that can be.

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
    elif modules == 0:
        reason = "there is no Ghost module"
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
    for _, cell in list(network.cells_and_names()):
        if isinstance(cell, GhostModule):
            modules += 1
            if _fits(cell):
                native += 1
                relu = cell.primary.act is not None
                tail = GhostTail(library, cell.primary.bn, cell.cheap.bn, cell.out_channels, relu)
                _attach(cell, "native_tail", tail)
                convolutions += _attach_convolution(cell, cell.primary.conv, library)
        elif _has_stem(cell):
            _attach(cell, "native_stem", StemTail(library, cell.bn1))
            convolutions += _attach_convolution(cell, cell.conv1, library)
    reason = ""
    if native < modules:
        reason = "other activations, normalisations or orders than BN, ReLU and the paper's"
    if not native:
        return Report(0, modules, convolutions, reason, 0)
    path = str(library.path)
    return Report(native, modules, convolutions, reason, library.threads, path)


def _attach(cell: nn.Cell, name: str, native: nn.Cell) -> None:
    native.set_train(cell.training)
    setattr(cell, name, native)


def _attach_convolution(cell: nn.Cell, conv: nn.Conv2d, library: Library) -> int:
    if not _is_plain_convolution(conv):
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
        and _is_plain_norm(primary.bn)
        and _is_plain_norm(cheap.bn)
        and _is_float(primary.conv)
        and _is_float(cheap.conv)
        and cheap.conv.has_bias is False
        and cheap.conv.group == primary.conv.out_channels
    )


def _has_stem(cell: nn.Cell) -> bool:
    return (
        "native_stem" in cell.__dict__
        and isinstance(getattr(cell, "max_pool", None), StemMaxPool)
        and type(cell.relu) is nn.ReLU
        and _is_plain_norm(cell.bn1)
        and _is_float(cell.conv1)
    )


def _is_plain_norm(norm: nn.Cell | None) -> bool:
    """A batch norm as nn.BatchNorm2d makes it; not a subclass, such as one over all ranks."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.use_batch_statistics is None
        and norm.format == "NCHW"
        and norm.gamma.dtype == norm.moving_mean.dtype == mstype.float32
    )


def _is_float(cell: nn.Cell) -> bool:
    """A plain convolution of float32, which no ``to_float`` casts."""
    flags = cell.get_flags()
    return (
        type(cell) is nn.Conv2d
        and cell.weight.dtype == mstype.float32
        and not any(flags.get(name, False) for name in ("fp16", "bf16"))
    )


def _is_plain_convolution(conv: nn.Conv2d) -> bool:
    rows, columns = conv.kernel_size
    padding = conv.padding if isinstance(conv.padding, tuple) else (conv.padding,) * 4
    return (
        rows == columns
        and rows % 2 == 1
        and conv.stride[0] == conv.stride[1]
        and conv.pad_mode == "pad"
        and tuple(padding) == (rows // 2,) * 4
        and set(conv.dilation) == {1}
        and conv.group == 1
        and conv.has_bias is False
    )
