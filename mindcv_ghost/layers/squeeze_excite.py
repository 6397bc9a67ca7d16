"""Squeeze-and-excitation: maps weighted by what their averages say."""

from __future__ import annotations

from mindspore import Tensor, nn

from mindcv_ghost.layers.global_avg_pool import GlobalAvgPool

__all__ = ["SqueezeExcite"]


class SqueezeExcite(nn.Cell):
    """Squeeze-and-excitation with a hard sigmoid, as in the Ghost bottlenecks.

    MindCV's layer computes the same under the same parameter names, but its pool is the one that
    mixed precision O1 can't import from a process's second network on (see :class:`GlobalAvgPool`).

    Args:
        channels: maps that come in and go out.
        reduced_channels: features between the two 1x1 convolutions.

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
        """Maps (N, channels, H, W) to their weights (N, channels, 1, 1)."""
        return self.gate(self.conv_expand(self.act(self.conv_reduce(self.pool(x)))))

    def construct(self, x: Tensor) -> Tensor:
        return x * self.weights(x)
