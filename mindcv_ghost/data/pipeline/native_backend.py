"""Batches by this package's C++ (``data/native``): each call makes eight images of the batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from mindcv_ghost.data.native.array_images import ArrayImages
from mindcv_ghost.data.native.images import ImageDecoder
from mindcv_ghost.data.pipeline.backend import SinkPipeline, generator_dataset
from mindcv_ghost.data.pipeline.bad_images import first_readable
from mindcv_ghost.data.pipeline.native_batches import ChainedBatches, NativeBatches
from mindcv_ghost.data.pipeline.sharding import EvalShard, TrainSampler
from mindcv_ghost.data.transforms.augmentations import MixupCutmix
from mindcv_ghost.errors import DataError

__all__ = ["NativeEvalBackend", "NativeTrainBackend"]


class NativeTrainBackend:
    """Training batches of one rank by this package's C++.

    Args:
        decoder: makes the images.
        sampler: which images come, and their seeds.
        mix: mixup and cutmix over a batch, or None.
        one_hot: width of one-hot labels; 0 for class numbers.
        workers: threads.
    """

    def __init__(
        self,
        decoder: ImageDecoder | ArrayImages,
        sampler: TrainSampler,
        *,
        mix: MixupCutmix | None,
        one_hot: int,
        workers: int,
    ) -> None:
        self._decoder, self._sampler = decoder, sampler
        self._mix, self._one_hot, self._workers = mix, one_hot, workers

    def epoch(self, epoch: int, skip: int) -> NativeBatches:
        """Make the batches of one epoch (from 0), without the first ``skip``."""
        decoder, mix, one_hot = self._decoder, self._mix, self._one_hot
        source, skips_bad = decoder.source, decoder.source.on_bad_image == "skip"
        indices, seeds = self._sampler.indices(epoch), self._sampler.seeds(epoch)

        def allocate(count: int) -> list[np.ndarray]:
            return [decoder.allocate(count), np.empty(count, np.int32)]

        def fill(arrays: list[np.ndarray], row: int, start: int, stop: int) -> None:
            images, labels = (array[row : row + stop - start] for array in arrays)
            labels[:] = [source.label_of(int(index)) for index in indices[start:stop]]
            for k in decoder.decode_batch(indices[start:stop], seeds[start:stop], images):
                decode_one = functools.partial(
                    decoder.decode_one, seed=int(seeds[start + k]), out=images[k : k + 1]
                )
                labels[k] = first_readable(decode_one, indices, start + k, skip=skips_bad)

        def finish(arrays: list[np.ndarray], start: int) -> list[np.ndarray]:
            images, labels = arrays
            if mix is not None:
                return list(mix(images, labels, int(seeds[start])))
            return [images, np.eye(one_hot, dtype=np.float32)[labels]]

        return NativeBatches(
            rows=len(indices),
            batch_rows=self._sampler.shard.batch_size,
            workers=self._workers,
            allocate=allocate,
            fill=fill,
            finish=finish if mix is not None or one_hot else None,
            skip=skip,
        )

    def whole_run(self, first_epoch: int, epochs: int, skip: int) -> SinkPipeline:
        """Make the batches of ``epochs`` epochs in one pipeline, without the first ``skip``."""
        steps = self._sampler.shard.steps

        def passes() -> Iterator[NativeBatches]:
            for k in range(epochs):
                yield self.epoch(first_epoch + k, min(max(skip - k * steps, 0), steps))

        batches = ChainedBatches(passes, steps * epochs - skip)
        return SinkPipeline(generator_dataset(batches, ["image", "label"]), batches.check)


class NativeEvalBackend:
    """Evaluation batches of one rank by this package's C++.

    Args:
        decoder: makes the images.
        shard: which images come.
        workers: threads.
    """

    def __init__(
        self, decoder: ImageDecoder | ArrayImages, shard: EvalShard, *, workers: int
    ) -> None:
        self._decoder, self._shard, self._workers = decoder, shard, workers

    def batches(self) -> NativeBatches:
        """Make all batches; see ``EvalLoader.batches``."""
        decoder, source, indices = self._decoder, self._decoder.source, self._shard.indices()

        def allocate(count: int) -> list[np.ndarray]:
            return [decoder.allocate(count), np.zeros(count, np.int32), np.zeros(count, np.int32)]

        def fill(arrays: list[np.ndarray], row: int, start: int, stop: int) -> None:
            images, labels, valid = (array[row : row + stop - start] for array in arrays)
            real = int(np.count_nonzero(indices[start:stop] >= 0))  # the padding comes last
            chunk = indices[start : start + real]
            labels[:real] = [source.label_of(int(index)) for index in chunk]
            valid[:real], images[real:] = 1, decoder.black
            for k in decoder.decode_batch(chunk, np.zeros(real, np.uint64), images[:real]):
                try:
                    decoder.decode_one(int(chunk[k]), 0, images[k : k + 1])
                except DataError:
                    if source.on_bad_image != "skip":
                        raise
                    valid[k], images[k] = 2, decoder.black

        return NativeBatches(
            rows=len(indices),
            batch_rows=self._shard.batch_size,
            workers=self._workers,
            allocate=allocate,
            fill=fill,
        )
