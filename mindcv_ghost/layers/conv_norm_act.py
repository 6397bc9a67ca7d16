"""Convolution, batch normalisation, activation: the unit that all networks here are made of."""

from __future__ import annotations

from typing import Callable, Union

from mindspore import Tensor, nn

from mindcv_ghost.layers.initializers import kaiming_normal_fan_out

__all__ = ["ConvNormAct", "Size"]

Size = Union[int, "tuple[int, int]"]


class ConvNormAct(nn.Cell):
    """A convolution, padded as PyTorch pads, then BN and, if asked for, an activation.

    MindCV's ``Conv2dNormActivation`` has no stable parameter names (they are numbers of a sequence)
    and pads even where the stride makes it lopsided; this one is named for weight conversion:
    ``conv.weight``, ``bn.gamma``, ``bn.beta``, ``bn.moving_mean``, ``bn.moving_variance``.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: side of the kernel, or height and width.
        stride: step of the convolution, or of rows and columns.
        groups: groups of the convolution.
        act: makes the activation (``nn.ReLU``); None for none.
        padding: as ``nn.Conv2d`` takes it; None for ``dilation * (kernel_size - 1) // 2`` zeros on
            every side, which keeps the size for odd kernels.
        pad_mode: ``nn.Conv2d``'s; ``padding`` counts for "pad" alone.
        dilation: distance of a kernel's points, or of its rows and columns.
        bias: whether the convolution has one.
        norm: makes the normalisation of so many maps; None for none.

    Inputs:
        Tensor of shape (N, in_channels, H, W).

    Outputs:
        Tensor of shape (N, out_channels, ceil(H / stride), ceil(W / stride)) with the padding that
        None stands for.
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
            padding = 0  # what nn.Conv2d wants to see there
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
