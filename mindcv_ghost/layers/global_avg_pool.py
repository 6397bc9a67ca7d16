"""The mean over all positions, whatever the size of the maps."""

from __future__ import annotations

from mindspore import Tensor, nn

__all__ = ["GlobalAvgPool"]


class GlobalAvgPool(nn.Cell):
    """Mean of every map.

    MindCV's ``GlobalAvgPooling`` does the same, but mixed precision O1 (``mindspore.rewrite``, in
    2.8.0) imports it by the bare name of its file, ``pooling``, and from a process's second network
    on finds MindSpore's file of that name: an ImportError.

    Args:
        keep_dims: put out maps of one position instead of plain features.

    Inputs:
        Tensor of shape (N, C, H, W).

    Outputs:
        Tensor of shape (N, C), or (N, C, 1, 1) with ``keep_dims``.
    """

    def __init__(self, keep_dims: bool = False) -> None:
        super().__init__()
        self.keep_dims = keep_dims

    def construct(self, x: Tensor) -> Tensor:
        return x.mean(axis=(2, 3), keep_dims=self.keep_dims)
