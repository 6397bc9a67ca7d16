"""The Ghost module: a few maps computed the costly way, the others derived by cheap operations.

Source: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
section 3.1.
"""

from __future__ import annotations

from typing import Callable, Union

from mindspore import Tensor, nn, ops

from mindcv_ghost.layers.conv_norm_act import ConvNormAct

__all__ = ["Activation", "GhostModule", "split_channels"]

Activation = Union[bool, nn.Cell, Callable[[], nn.Cell]]


def split_channels(out_channels: int, ratio: int) -> tuple[int, int]:
    """Divide a Ghost module's maps between its costly and its cheap branch (paper, section 3.1).

    Every intrinsic map brings ``ratio - 1`` ghosts, so that where ``ratio`` doesn't divide
    ``out_channels`` there are a few maps too many: the caller crops them.

    Args:
        out_channels: maps that the caller receives.
        ratio: the paper's s; one map in ``ratio`` is computed the costly way.

    Returns:
        The numbers of intrinsic and of ghost maps.

    Raises:
        ValueError: if ``ratio`` lies outside 1..out_channels.

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
    """A stand-in for a convolution that computes one map in ``ratio`` and derives the others.

    The primary convolution makes the intrinsic maps; a depthwise convolution of the cheap kernel
    makes ``ratio - 1`` ghosts of each; both are concatenated. Either convolution is followed by BN
    and, with ``act``, by an activation. Sizes and strides are those of the convolution it replaces,
    padded as PyTorch pads (``kernel_size // 2`` on all sides).

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: side of the primary kernel, odd.
        ratio: the paper's s. With 1 there is no cheap branch: convolution, BN, activation.
        cheap_kernel_size: the paper's d, odd: side of the cheap kernel.
        stride: step of the primary convolution.
        act: True for a ReLU, False for none, or an activation: a class or function that makes one
            (``nn.SiLU``), or a cell without parameters, which both branches then share.

    Inputs:
        Tensor of shape (N, in_channels, H, W).

    Outputs:
        Tensor of shape (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: if a size isn't a positive integer, a kernel is even, ``ratio`` exceeds
            ``out_channels``, or ``act`` is a cell with parameters.
        TypeError: if ``act`` is neither of the above.

    Source: paper, section 3.1 and equation 3; BN and ReLU on both branches as in the authors'
    ``ghostnet.py``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        stride: int = 1,
        act: Activation = True,
    ) -> None:
        super().__init__()
        _check_positive_int("in_channels", in_channels)
        _check_positive_int("stride", stride)
        _check_odd("kernel_size", kernel_size)
        _check_odd("cheap_kernel_size", cheap_kernel_size)
        intrinsic, ghost = split_channels(out_channels, ratio)
        make_act = _activation_maker(act)

        self.out_channels = out_channels
        self.has_surplus = intrinsic + ghost > out_channels
        self.primary = ConvNormAct(in_channels, intrinsic, kernel_size, stride, act=make_act)
        self.cheap = None
        if ghost:
            self.cheap = ConvNormAct(
                intrinsic, ghost, cheap_kernel_size, groups=intrinsic, act=make_act
            )

    def construct(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        if self.cheap is not None:
            x = ops.concat((x, self.cheap(x)), axis=1)
        if self.has_surplus:
            x = x[:, : self.out_channels]
        return x


def _check_positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, but it must be a whole number of at least 1")


def _check_odd(name: str, value: object) -> None:
    _check_positive_int(name, value)
    if value % 2 == 0:
        raise ValueError(
            f"{name} is {value}, but a Ghost module needs an odd kernel (1, 3, 5, 7 ...): an even "
            f"one can't keep the size of the maps with equal padding on both sides"
        )


def _activation_maker(act: Activation) -> Callable[[], nn.Cell] | None:
    """Turn the ``act`` argument into something that makes one activation a branch."""
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
