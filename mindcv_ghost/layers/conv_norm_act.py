"""Convolution, batch normalisation, activation: the unit that all networks here are made of."""

from __future__ import annotations

from typing import Callable

from mindspore import Tensor, nn

from mindcv_ghost.layers.initializers import kaiming_normal_fan_out

__all__ = ["ConvNormAct"]


class ConvNormAct(nn.Cell):
    """A convolution without bias, padded as PyTorch pads, then BN and, if asked for, an activation.

    MindCV's ``Conv2dNormActivation`` has no stable parameter names (they are numbers of a sequence)
    and pads even where the stride makes it lopsided; this one is named for weight conversion:
    ``conv.weight``, ``bn.gamma``, ``bn.beta``, ``bn.moving_mean``, ``bn.moving_variance``.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: side of the kernel, odd; ``kernel_size // 2`` zeros pad every side.
        stride: step of the convolution.
        groups: groups of the convolution.
        act: makes the activation (``nn.ReLU``); None for none.

    Inputs:
        Tensor of shape (N, in_channels, H, W).

    Outputs:
        Tensor of shape (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: Callable[[], nn.Cell] | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            pad_mode="pad",
            padding=kernel_size // 2,
            group=groups,
            has_bias=False,
            weight_init=kaiming_normal_fan_out(out_channels, kernel_size, groups),
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = None if act is None else act()

    def construct(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        if self.act is not None:
            x = self.act(x)
        return x
