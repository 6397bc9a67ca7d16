"""The mean over all positions, whatever the size of the maps."""

from __future__ import annotations

from mindspore import Tensor, nn

__all__ = ["GlobalAvgPool"]


class GlobalAvgPool(nn.Cell):
    """Mean of every map.

    MindCV's ``GlobalAvgPooling`` does the same, but mixed precision O1 (``mindspore.rewrite``, in
    2.8.0) imports it by the bare name of its file, ``pooling``, and from a process's second network
    on finds MindSpore's file of that name: an ImportError.

    Inputs:
        Tensor of shape (N, C, H, W).

    Outputs:
        Tensor of shape (N, C).
    """

    def construct(self, x: Tensor) -> Tensor:
        return x.mean(axis=(2, 3))
