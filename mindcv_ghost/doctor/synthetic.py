"""Images that nobody has to have: noise and labels from a fixed seed, one batch for each rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Shape", "batch_of"]


@dataclass(frozen=True)
class Shape:
    """What batches look like.

    Args:
        images: in a batch.
        channels: of an image.
        height, width: in pixels.
        classes: of the labels.
        one_hot: whether labels are vectors (N, classes).
    """

    images: int
    channels: int
    height: int
    width: int
    classes: int
    one_hot: bool = False


def batch_of(shape: Shape, seed: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a rank's batch, the same in every process that asks for it.

    Returns:
        images (N, C, H, W), float32 like normalised ones; labels (N,), int32, or vectors, float32.

    >>> batch_of(Shape(2, 3, 8, 8, classes=5), seed=1, rank=0)[0].shape
    (2, 3, 8, 8)
    """
    draw = np.random.default_rng([seed, rank])
    size = (shape.images, shape.channels, shape.height, shape.width)
    images = draw.standard_normal(size).astype(np.float32)
    labels = draw.integers(0, shape.classes, shape.images).astype(np.int32)
    if shape.one_hot:
        return images, np.eye(shape.classes, dtype=np.float32)[labels]
    return images, labels
