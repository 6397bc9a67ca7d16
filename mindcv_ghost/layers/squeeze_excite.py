"""Squeeze-and-excitation: channels rescaled by weights that depend on their means."""

from __future__ import annotations

from mindspore import Tensor, nn

from mindcv_ghost.layers.global_avg_pool import GlobalAvgPool

__all__ = ["SqueezeExcite"]


class SqueezeExcite(nn.Cell):
    """Squeeze-and-excitation with a hard sigmoid, as in the Ghost bottlenecks.

    MindCV's layer computes the same with the same parameter names, but its pooling layer fails with
    mixed precision O1 (see :class:`GlobalAvgPool`).

    Args:
        channels: number of input and output channels.
        reduced_channels: number of channels between the two 1x1 convolutions.

    Inputs:
        Tensor of shape (N, channels, H, W).

    Outputs:
        Tensor of shape (N, channels, H, W).

    Source: Hu et al., "Squeeze-and-Excitation Networks" (arXiv 1709.01507), section 3.
    """

    def __init__(self, channels: int, reduced_channels: int) -> None:
        super().__init__()
        self.pool = GlobalAvgPool(keep_dims=True)
        self.conv_reduce = nn.Conv2d(channels, reduced_channels, 1, has_bias=True)
        self.act = nn.ReLU()
        self.conv_expand = nn.Conv2d(reduced_channels, channels, 1, has_bias=True)
        self.gate = nn.HSigmoid()

    def weights(self, x: Tensor) -> Tensor:
        """Weights (N, channels, 1, 1) for maps (N, channels, H, W)."""
        return self.gate(self.conv_expand(self.act(self.conv_reduce(self.pool(x)))))

    def construct(self, x: Tensor) -> Tensor:
        return x * self.weights(x)
