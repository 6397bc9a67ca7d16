"""A linear classifier as a Ghost module: one logit in ``ratio`` from the features."""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform

from mindcv_ghost.layers.ghost_module import split_channels

__all__ = ["GhostClassifier"]


class GhostClassifier(nn.Cell):
    """The Ghost module for a linear layer: each ghost logit is a multiple of an intrinsic one.

    The input of a classifier has a single position, so only one weight of a cheap kernel has an
    effect: the kernel is 1x1 here. Both branches have a bias but neither BN nor activation.

    The paper doesn't say that its Ghost-ResNet-50 has such a classifier, but its numbers of
    parameters suggest it: 13.95M and 8.15M (ratio 2 and 4) become 12.93M and 6.62M with it; the
    paper has 13.0M and 6.5M.

    Args:
        in_channels: number of features.
        out_channels: number of classes.
        ratio: the paper's s; with 1 this is a plain linear layer.

    Inputs:
        Tensor of shape (N, in_channels).

    Outputs:
        Tensor of shape (N, out_channels).

    Raises:
        ValueError: if ``ratio`` is outside 1..out_channels.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int = 2) -> None:
        super().__init__()
        intrinsic, ghost = split_channels(out_channels, ratio)
        self.out_channels = out_channels
        self.has_surplus = intrinsic + ghost > out_channels
        self.primary = nn.Dense(
            in_channels,
            intrinsic,
            weight_init=HeUniform(mode="fan_in", nonlinearity="sigmoid"),  # as MindCV's
            bias_init="zeros",
        )
        self.cheap = None
        if ghost:
            self.cheap = nn.Conv2d(
                intrinsic,
                ghost,
                kernel_size=1,
                group=intrinsic,
                has_bias=True,
                # Uniform within -1..1, so that ghost logits are about as large as intrinsic ones.
                weight_init=HeUniform(negative_slope=math.sqrt(5.0)),
                bias_init="zeros",
            )

    def construct(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        if self.cheap is not None:
            ghosts = self.cheap(x.reshape(x.shape[0], x.shape[1], 1, 1))
            x = ops.concat((x, ghosts.reshape(x.shape[0], ghosts.shape[1])), axis=1)
        if self.has_surplus:
            x = x[:, : self.out_channels]
        return x
