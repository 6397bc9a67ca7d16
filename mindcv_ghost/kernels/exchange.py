"""Ordinary cells that compute what they are for with operators of our own.

A cell stays the object that it is, with its parameters, its name and its place: only its class
changes, to one that knows another ``construct``. Whoever holds a reference to it, a sequence, a
list, an optimizer or a checkpoint, needn't know.
"""

from __future__ import annotations

from mindspore import dtype as mstype
from mindspore import nn

from mindcv_ghost.kernels.layers import BatchNorm, Depthwise, Mean, Weighting
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.operators import Convolution
from mindcv_ghost.layers import DFCAttention, GlobalAvgPool, SqueezeExcite

__all__ = ["is_dense", "is_depthwise", "is_float", "is_plain_norm", "kind_of", "replace"]


class NativeConv2d(nn.Conv2d):
    """A convolution; ``native`` takes maps and weight."""

    def construct(self, x):
        y = self.native(x, self.weight)
        if self.has_bias:
            y = self.bias_add(y, self.bias)
        return y


class NativeBatchNorm2d(nn.BatchNorm2d):
    """A batch normalisation; ``native`` takes maps, parameters and moving statistics."""

    def construct(self, x):
        return self.native(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)


class NativeGlobalAvgPool(GlobalAvgPool):
    """The mean of every map."""

    def construct(self, x):
        return self.native(x)


class NativeSqueezeExcite(SqueezeExcite):
    """Squeeze-and-excitation; ``native`` takes maps and weights."""

    def construct(self, x):
        return self.native(x, self.weights(x))


def kind_of(cell: nn.Cell) -> str:
    """Tell what a cell counts as: "convolution", "depthwise", "norm", "map", or "" if it stays."""
    if is_dense(cell):
        return "convolution"
    if is_depthwise(cell):
        return "depthwise"
    if is_plain_norm(cell):
        return "norm"
    return "map" if type(cell) in (GlobalAvgPool, SqueezeExcite, DFCAttention) else ""


def replace(cell: nn.Cell, library: Library) -> None:
    """Let operators of our own compute a cell that has a kind."""
    kind = kind_of(cell)
    if kind == "convolution":
        _become(cell, NativeConv2d, Convolution(library, cell.stride[0]))
    elif kind == "depthwise":
        _become(cell, NativeConv2d, Depthwise(library, cell.stride[0]))
    elif kind == "norm":
        _become(cell, NativeBatchNorm2d, BatchNorm(library, cell))
    elif type(cell) is GlobalAvgPool:
        _become(cell, NativeGlobalAvgPool, Mean(library, cell.keep_dims))
    elif type(cell) is SqueezeExcite:
        _become(cell, NativeSqueezeExcite, Weighting(library))
    else:
        _become(cell, DFCAttention, Weighting(library))


def _become(cell: nn.Cell, kind: type[nn.Cell], native: nn.Cell) -> None:
    native.set_train(cell.training)
    cell.__class__ = kind
    cell.native = native


def is_plain_norm(norm: nn.Cell | None) -> bool:
    """A batch norm as nn.BatchNorm2d makes it; not a subclass, such as one over all ranks."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.use_batch_statistics is None
        and norm.format == "NCHW"
        and norm.gamma.dtype == norm.moving_mean.dtype == mstype.float32
        and not _is_cast(norm)
    )


def is_float(cell: nn.Cell) -> bool:
    """A plain convolution of float32, which no ``to_float`` casts."""
    return type(cell) is nn.Conv2d and cell.weight.dtype == mstype.float32 and not _is_cast(cell)


def _is_cast(cell: nn.Cell) -> bool:
    flags = cell.get_flags()
    return any(flags.get(name, False) for name in ("fp16", "bf16"))


def is_dense(conv: nn.Cell) -> bool:
    """A convolution of one group, square and padded by half its kernel."""
    return (
        is_float(conv)
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.group == 1
        and _is_padded_by_half(conv)
    )


def is_depthwise(conv: nn.Cell) -> bool:
    """A convolution that gives every map kernels of its own, padded by half of them."""
    return (
        is_float(conv)
        and conv.group == conv.in_channels > 1
        and conv.stride[0] in (1, 2)
        and _is_padded_by_half(conv)
    )


def _is_padded_by_half(conv: nn.Conv2d) -> bool:
    """Whether kernels are odd, steps the same both ways, and the border half a kernel wide."""
    rows, columns = conv.kernel_size
    stride = conv.stride
    if rows % 2 == 0 or columns % 2 == 0 or stride[0] != stride[1] or set(conv.dilation) != {1}:
        return False
    if conv.data_format != "NCHW":
        return False
    if conv.pad_mode == "pad":
        padding = conv.padding if isinstance(conv.padding, tuple) else (conv.padding,) * 4
        return tuple(padding) == (rows // 2, rows // 2, columns // 2, columns // 2)
    if conv.pad_mode == "same":  # with steps of two, the border depends on the maps' size
        return stride[0] == 1 or (rows, columns) == (1, 1)
    return (rows, columns) == (1, 1)
