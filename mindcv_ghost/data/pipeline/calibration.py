"""A few training images for what is measured rather than trained: BN statistics, fitted kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from mindcv_ghost.data.pipeline.loader import TrainLoader
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.transforms import Augment

__all__ = ["calibration_batches"]


def calibration_batches(
    source: Source, augment: Augment, images: int, batch_size: int, seed: int, workers: int = 1
) -> Iterator[np.ndarray]:
    """Give training images as a network in training sees them, but not mixed with others.

    Drawn at random from the set, and the same ones on every rank.

    Args:
        source: the training split.
        augment: settings of the transforms.
        images: how many; at most the whole set.
        batch_size: images a batch.
        seed: decides which images come, and what is done to them.
        workers: threads of each operation.

    Returns:
        Batches of float32 (N, C, H, W).
    """
    images = min(images, len(source))
    loader = TrainLoader(
        source,
        augment=dataclasses.replace(augment, mixup=0.0, cutmix=0.0, aug_splits=0),
        num_classes=1,  # counts for mixed labels alone
        batch_size=min(batch_size, images),
        seed=seed,
        num_samples=images,
        workers=workers,
    )
    for image, _ in loader.epoch(0):
        yield image.asnumpy()
