"""Convolution, batch normalisation, activation: the unit that all networks here consist of."""

from __future__ import annotations

from typing import Callable, Union

from mindspore import Tensor, nn

from mindcv_ghost.layers.initializers import kaiming_normal_fan_out

__all__ = ["ConvNormAct", "Size"]

Size = Union[int, "tuple[int, int]"]


class ConvNormAct(nn.Cell):
    """A convolution with PyTorch's padding, then optionally a normalisation and an activation.

    MindCV's ``Conv2dNormActivation`` names its parameters by their index in a sequence, and its
    padding is asymmetric for some strides. Here the names suit weight conversion: ``conv.weight``,
    ``bn.gamma``, ``bn.beta``, ``bn.moving_mean``, ``bn.moving_variance``.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: of the convolution; one number, or height and width.
        stride: of the convolution; one number, or of rows and columns.
        groups: groups of the convolution.
        act: class or function that makes the activation, such as ``nn.ReLU``; None for none.
        padding: as in ``nn.Conv2d``; None for ``dilation * (kernel_size - 1) // 2`` zeros on every
            side, which keeps the size for odd kernels.
        pad_mode: as in ``nn.Conv2d``; ``padding`` is only used with "pad".
        dilation: of the convolution; one number, or of rows and columns.
        bias: whether the convolution has a bias.
        norm: class or function that makes the normalisation of a number of channels; None for none.

    Inputs:
        Tensor of shape (N, in_channels, H, W).

    Outputs:
        Tensor of shape (N, out_channels, ceil(H / stride), ceil(W / stride)) with ``padding=None``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        groups: int = 1,
        act: Callable[[], nn.Cell] | None = None,
        *,
        padding: int | tuple[int, int, int, int] | None = None,
        pad_mode: str = "pad",
        dilation: Size = 1,
        bias: bool = False,
        norm: Callable[[int], nn.Cell] | None = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if pad_mode != "pad":
            padding = 0  # nn.Conv2d requires it
        elif padding is None:
            (rows, columns), (down, across) = _pair(kernel_size), _pair(dilation)
            top, left = down * (rows - 1) // 2, across * (columns - 1) // 2
            padding = top if top == left else (top, top, left, left)
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            pad_mode=pad_mode,
            padding=padding,
            dilation=dilation,
            group=groups,
            has_bias=bias,
            weight_init=kaiming_normal_fan_out(out_channels, kernel_size, groups),
            bias_init="zeros" if bias else None,
        )
        self.bn = None if norm is None else norm(out_channels)
        self.act = None if act is None else act()

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        if self.act is not None:
            x = self.act(x)
        return x


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
