"""Decoupled fully connected (DFC) attention of GhostNetV2."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindcv_ghost.layers.initializers import kaiming_normal_fan_out

__all__ = ["DFCAttention"]

# Size of the kernels along rows and along columns.
REACH = 5


class DFCAttention(nn.Cell):
    """Weights within 0..1 for every position of every channel, from its row and its column.

    They are computed at half the size and enlarged by repetition.

    Args:
        in_channels: number of input channels.
        out_channels: number of channels of the weights.

    Inputs:
        Tensor of shape (N, in_channels, H, W), H and W at least 2; and the tensor (N, out_channels,
        H', W') that the weights are for, of which only the shape is used.

    Outputs:
        Tensor of shape (N, out_channels, H', W').

    Source: Tang et al., "GhostNetV2" (arXiv 2211.12905); the authors' ``short_conv``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)
        self.fc = nn.SequentialCell(
            [
                _conv(in_channels, out_channels, (1, 1)),
                nn.BatchNorm2d(out_channels),
                _conv(out_channels, out_channels, (1, REACH), groups=out_channels),
                nn.BatchNorm2d(out_channels),
                _conv(out_channels, out_channels, (REACH, 1), groups=out_channels),
                nn.BatchNorm2d(out_channels),
            ]
        )

    def construct(self, x: Tensor, like: Tensor) -> Tensor:
        return ops.interpolate(self.half_size(x), size=like.shape[2:], mode="nearest")

    def half_size(self, x: Tensor) -> Tensor:
        """Weights before they are enlarged: (N, out_channels, H // 2, W // 2)."""
        return ops.sigmoid(self.fc(self.pool(x)))


def _conv(
    in_channels: int, out_channels: int, kernel_size: tuple[int, int], groups: int = 1
) -> nn.Conv2d:
    height, width = kernel_size
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        pad_mode="pad",
        padding=(height // 2, height // 2, width // 2, width // 2),
        group=groups,
        has_bias=False,
        weight_init=kaiming_normal_fan_out(out_channels, kernel_size, groups),
    )
