"""A pass for training and one for evaluation: which images come, and with which labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mindcv_ghost.data.native.batches import NativeBatches
from mindcv_ghost.data.native.images import Images, OneImage
from mindcv_ghost.data.pipeline.stream import read_or_replace
from mindcv_ghost.errors import DataError

__all__ = ["evaluation_pass", "training_pass"]


def training_pass(
    images: Images,
    *,
    indices: np.ndarray,
    seeds: np.ndarray,
    batch_rows: int,
    workers: int,
    mix: Callable | None = None,
    one_hot: int = 0,
    skip: int = 0,
) -> NativeBatches:
    """Batches of image, float32 (N, 3, H, W), and label, int32 (N,) or float32 (N, classes).

    Args:
        images: what makes them.
        indices: of one rank's images of an epoch, in order.
        seeds: of these images, in the same order.
        batch_rows: images a batch.
        workers: threads.
        mix: mixup and cutmix over a batch, see ``seeded.Mix``.
        one_hot: classes of labels that are to be vectors; 0 for numbers.
        skip: batches to leave out.
    """
    source = images.source

    def empty(count: int) -> list[np.ndarray]:
        return [images.empty(count), np.empty(count, np.int32)]

    def fill(arrays: list[np.ndarray], row: int, start: int, stop: int) -> None:
        pixels, labels = (array[row : row + stop - start] for array in arrays)
        labels[:] = [source.label_of(int(index)) for index in indices[start:stop]]
        for k in images.make(indices[start:stop], seeds[start:stop], pixels):
            one = OneImage(images, int(seeds[start + k]), pixels[k : k + 1])
            labels[k] = read_or_replace(one, indices, start + k)[1]

    def finish(arrays: list[np.ndarray], start: int) -> list[np.ndarray]:
        pixels, labels = arrays
        if mix is not None:
            return list(mix(pixels, labels, int(seeds[start])))
        return [pixels, np.eye(one_hot, dtype=np.float32)[labels]]

    return NativeBatches(
        source,
        rows=len(indices),
        batch_rows=batch_rows,
        workers=workers,
        empty=empty,
        fill=fill,
        finish=finish if mix is not None or one_hot else None,
        skip=skip,
    )


def evaluation_pass(
    images: Images, *, indices: np.ndarray, batch_rows: int, workers: int
) -> NativeBatches:
    """Batches of image, label and valid, as ``loader.EvalLoader.batches`` says.

    Args:
        images: what makes them.
        indices: of one rank's images in order, -1 at the end where batches are filled up.
        batch_rows: images a batch.
        workers: threads.
    """
    source = images.source

    def empty(count: int) -> list[np.ndarray]:
        return [images.empty(count), np.zeros(count, np.int32), np.zeros(count, np.int32)]

    def fill(arrays: list[np.ndarray], row: int, start: int, stop: int) -> None:
        pixels, labels, valid = (array[row : row + stop - start] for array in arrays)
        there = int(np.count_nonzero(indices[start:stop] >= 0))
        mine = indices[start : start + there]
        labels[:there] = [source.label_of(int(index)) for index in mine]
        valid[:there], pixels[there:] = 1, images.black
        for k in images.make(mine, np.zeros(there, np.uint64), pixels[:there]):
            try:
                images.make_one(int(mine[k]), 0, pixels[k : k + 1])
            except DataError:
                if source.on_bad_image != "skip":
                    raise
                valid[k], pixels[k] = 2, images.black

    return NativeBatches(
        source, rows=len(indices), batch_rows=batch_rows, workers=workers, empty=empty, fill=fill
    )
