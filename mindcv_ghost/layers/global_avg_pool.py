"""Global average pooling, for any size of the maps."""

from __future__ import annotations

from mindspore import Tensor, nn

__all__ = ["GlobalAvgPool"]


class GlobalAvgPool(nn.Cell):
    """Mean over all positions of every channel.

    MindCV's ``GlobalAvgPooling`` does the same, but fails with mixed precision O1 in MindSpore
    2.8.0: ``mindspore.rewrite`` imports it by the bare name of its file, ``pooling``. From the
    second network of a process on, that finds MindSpore's own file: an ImportError.

    Args:
        keep_dims: return maps of one position instead of features.

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
