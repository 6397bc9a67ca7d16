"""The Ghost module: a primary convolution for some maps, cheap operations for the others.

Source: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
section 3.1.
"""

from __future__ import annotations

from typing import Callable, Union

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.layers.conv_norm_act import ConvNormAct, Size

__all__ = ["Activation", "GhostModule", "split_channels"]

Activation = Union[bool, nn.Cell, Callable[[], nn.Cell]]
Normalisation = Union[bool, Callable[[int], nn.Cell]]


def split_channels(out_channels: int, ratio: int) -> tuple[int, int]:
    """Divide output channels between the primary and the cheap branch (paper, section 3.1).

    Every intrinsic map gets ``ratio - 1`` ghost maps. If ``ratio`` doesn't divide ``out_channels``,
    there are a few surplus maps, which the caller crops.

    Args:
        out_channels: number of output channels.
        ratio: the paper's s: output maps per intrinsic map.

    Returns:
        The numbers of intrinsic and of ghost maps.

    Raises:
        ValueError: if ``ratio`` is outside 1..out_channels.

    >>> split_channels(64, ratio=2), split_channels(10, ratio=4)
    ((32, 32), (3, 9))
    """
    _check_positive_int("out_channels", out_channels)
    _check_positive_int("ratio", ratio)
    if ratio > out_channels:
        raise ValueError(
            f"ratio is {ratio}, but a Ghost module of {out_channels} maps needs a ratio within "
            f"1..{out_channels}"
        )
    intrinsic = -(-out_channels // ratio)
    return intrinsic, intrinsic * (ratio - 1)


class GhostModule(nn.Cell):
    """A replacement of a convolution that computes few maps and derives the others from them.

    The primary convolution makes the intrinsic maps. A depthwise convolution with the cheap kernel
    makes ``ratio - 1`` ghost maps of each, and both are concatenated. Each convolution is followed
    by BN and, with ``act``, by an activation. Output sizes are those of the replaced convolution
    with PyTorch's padding (``kernel_size // 2`` on all sides).

    The keyword arguments are for networks that weren't designed with Ghost modules
    (:func:`mindcv_ghost.surgery.ghostify`).

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: of the primary convolution; one number, or height and width. They must be odd,
            unless ``padding`` or ``pad_mode`` is given.
        ratio: the paper's s. With 1 there is no cheap branch: convolution, BN, activation.
        cheap_kernel_size: the paper's d: size of the cheap kernel, odd.
        stride: of the primary convolution; one number, or of rows and columns.
        act: True for a ReLU, False for none, or an activation: a class or function that makes one
            (``nn.SiLU``), or a cell without parameters, which both branches share.
        padding: of the primary convolution, as in ``nn.Conv2d``.
        pad_mode: of the primary convolution: "pad", "same" or "valid".
        dilation: of the primary convolution.
        bias: whether the primary convolution has a bias; without ``norm`` the cheap one has, too.
        norm: True for BN, False for none, or a class or function that makes the normalisation of a
            number of channels.
        act_on_output: False if the network itself applies ``act`` to the output. Then only the
            input of the cheap branch passes through it here.
        permuted: permute the output maps by ``order``, a parameter that isn't trained and starts
            as intrinsic maps, then ghost maps.

    Inputs:
        Tensor of shape (N, in_channels, H, W).

    Outputs:
        Tensor of shape (N, out_channels, ceil(H / stride), ceil(W / stride)), padded by default.

    Raises:
        ValueError: if a size isn't a positive integer, a kernel is even, ``ratio`` exceeds
            ``out_channels``, or ``act`` is a cell with parameters.
        TypeError: if ``act`` or ``norm`` is neither of the above.

    Source: paper, section 3.1 and equation 3; BN and ReLU on both branches as in the authors'
    ``ghostnet.py``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        stride: Size = 1,
        act: Activation = True,
        *,
        padding: int | tuple[int, int, int, int] | None = None,
        pad_mode: str = "pad",
        dilation: Size = 1,
        bias: bool = False,
        norm: Normalisation = True,
        act_on_output: bool = True,
        permuted: bool = False,
    ) -> None:
        super().__init__()
        _check_positive_int("in_channels", in_channels)
        padded_by_default = padding is None and pad_mode == "pad"
        for side in _sides(kernel_size):
            (_check_odd if padded_by_default else _check_positive_int)("kernel_size", side)
        for name, sizes in (("stride", stride), ("dilation", dilation)):
            for size in _sides(sizes):
                _check_positive_int(name, size)
        _check_odd("cheap_kernel_size", cheap_kernel_size)
        intrinsic, ghost = split_channels(out_channels, ratio)
        make_act, make_norm = _activation_maker(act), _normalisation_maker(norm)
        inner_act = make_act if act_on_output else None

        self.out_channels = out_channels
        self.ratio = ratio
        self.has_surplus = intrinsic + ghost > out_channels
        self.primary = ConvNormAct(
            in_channels,
            intrinsic,
            kernel_size,
            stride,
            act=inner_act,
            padding=padding,
            pad_mode=pad_mode,
            dilation=dilation,
            bias=bias,
            norm=make_norm,
        )
        self.act = make_act() if make_act is not None and ghost and not act_on_output else None
        self.cheap = None
        if ghost:
            self.cheap = ConvNormAct(
                intrinsic,
                ghost,
                cheap_kernel_size,
                groups=intrinsic,
                act=inner_act,
                bias=bias and make_norm is None,
                norm=make_norm,
            )
        self.order = None
        if permuted and ghost:
            order = Tensor(np.arange(out_channels, dtype=np.int32))
            self.order = Parameter(order, name="order", requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        if self.cheap is not None:
            source = x if self.act is None else self.act(x)
            x = ops.concat((x, self.cheap(source)), axis=1)
        if self.order is not None:
            x = ops.gather(x, self.order, 1)
        elif self.has_surplus:
            x = x[:, : self.out_channels]
        return x


def _sides(size: Size) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,)


def _check_positive_int(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, but it must be a whole number of at least 1")


def _check_odd(name: str, value: int) -> None:
    _check_positive_int(name, value)
    if value % 2 == 0:
        raise ValueError(
            f"{name} is {value}, but a Ghost module needs an odd kernel (1, 3, 5, 7 ...): an even "
            f"one can't keep the size of the maps with equal padding on both sides"
        )


def _activation_maker(act: Activation) -> Callable[[], nn.Cell] | None:
    """Return a function that makes the activation of a branch; None for none."""
    if isinstance(act, bool):
        return nn.ReLU if act else None
    if isinstance(act, nn.Cell):
        if act.parameters_dict():
            raise ValueError(
                f"act is a {type(act).__name__} with parameters, which two branches can't share; "
                f"give its class or a function that makes one"
            )
        return lambda: act
    if callable(act):
        return act
    raise TypeError(f"act is {act!r}; legal are True, False, a cell, or what makes one (nn.ReLU)")


def _normalisation_maker(norm: Normalisation) -> Callable[[int], nn.Cell] | None:
    """Return a function that makes the normalisation of a branch; None for none."""
    if isinstance(norm, bool):
        return nn.BatchNorm2d if norm else None
    if callable(norm) and not isinstance(norm, nn.Cell):
        return norm
    raise TypeError(
        f"norm is {norm!r}; legal are True, False, or what makes one of so many maps "
        f"(nn.BatchNorm2d)"
    )
