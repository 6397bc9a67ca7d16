"""A few training images for measuring: recomputing BN statistics, fitting kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from mindcv_ghost.data.pipeline.loader import TrainLoader
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.settings import Augment

__all__ = ["calibration_batches"]


def calibration_batches(
    source: Source, augment: Augment, images: int, batch_size: int, seed: int, workers: int = 1
) -> Iterator[np.ndarray]:
    """Give augmented training images without mixup and cutmix, the same ones on every rank.

    They are drawn at random from the set.

    Args:
        source: the training split.
        augment: settings of the transforms.
        images: how many; at most the whole set. A few fewer if they don't make equal batches.
        batch_size: the largest batch.
        seed: decides which images come and how they are augmented.
        workers: threads of each operation.

    Yields:
        Batches of float32 (N, C, H, W).
    """
    images = min(images, len(source))
    batches = -(-images // batch_size)
    size = images // batches
    loader = TrainLoader(
        source,
        augment=dataclasses.replace(augment, mixup=0.0, cutmix=0.0, aug_splits=0, aug_repeats=0),
        num_classes=1,  # matters for mixed and one-hot labels only
        batch_size=size,
        seed=seed,
        num_samples=batches * size,
        workers=workers,
    )
    for image, _ in loader.epoch(0):
        yield image.asnumpy()
