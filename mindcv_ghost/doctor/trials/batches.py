"""Synthetic batches: noise and labels from a fixed seed, one batch for each rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mindspore as ms
import mindspore.dataset as ds
import numpy as np

__all__ = ["BatchShape", "RepeatedBatch", "make_batch"]


@dataclass(frozen=True)
class BatchShape:
    """Shape of a batch.

    Args:
        images: number of images.
        channels: of an image.
        height: in pixels.
        width: in pixels.
        classes: number of different labels.
        one_hot: whether labels are vectors (N, classes).
    """

    images: int
    channels: int
    height: int
    width: int
    classes: int
    one_hot: bool = False


def make_batch(shape: BatchShape, seed: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Generate a rank's batch; it depends on the arguments alone.

    Args:
        shape: of the batch.
        seed: of the random generator.
        rank: each rank gets other images.

    Returns:
        images (N, C, H, W), float32, with mean 0 and standard deviation 1; labels (N,), int32, or
        one-hot vectors (N, classes), float32.

    >>> make_batch(BatchShape(2, 3, 8, 8, classes=5), seed=1, rank=0)[0].shape
    (2, 3, 8, 8)
    """
    generator = np.random.default_rng([seed, rank])
    size = (shape.images, shape.channels, shape.height, shape.width)
    images = generator.standard_normal(size).astype(np.float32)
    labels = generator.integers(0, shape.classes, shape.images).astype(np.int32)
    if shape.one_hot:
        return images, np.eye(shape.classes, dtype=np.float32)[labels]
    return images, labels


class RepeatedBatch:
    """A training set (``engine.feeds.BatchSource``) that repeats one batch.

    Args:
        images: (N, C, H, W).
        labels: (N,), or (N, classes).
        steps: batches per epoch.
        ranks: number of processes.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, steps: int, ranks: int) -> None:
        self.images, self.labels, self.steps_per_epoch = images, labels, steps
        self.images_per_epoch = len(images) * steps * ranks

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[ms.Tensor, ms.Tensor]]:
        """Yield an epoch's batches after the first ``skip``."""
        for _ in range(self.steps_per_epoch - skip):
            # New tensors, as from a loader: a device has to copy each of them.
            yield ms.Tensor(self.images), ms.Tensor(self.labels)

    def whole_run(self, first_epoch: int, epochs: int, skip: int = 0) -> _Pipeline:
        """Make one pipeline of all epochs' batches, for sink mode."""
        rows = _Rows(self.images, self.labels, epochs * self.steps_per_epoch - skip)
        names = ["image", "label"]
        return _Pipeline(ds.GeneratorDataset(rows, names, shuffle=False, num_parallel_workers=1))

    def names(self, epoch: int, step: int) -> list[str]:
        """Return no names: the images aren't files."""
        return []


@dataclass
class _Pipeline:
    """Implements ``engine.feeds.SinkPipeline``; no batch fails."""

    dataset: ds.Dataset

    def check(self, batch: int) -> None:
        """Raise nothing."""


@dataclass(frozen=True)
class _Rows:
    """A random-access source for MindSpore, with one batch per row."""

    images: np.ndarray
    labels: np.ndarray
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.images, self.labels
