"""The loaders for training and evaluation: one order of images, one of two backends.

``data/native``, this package's C++, makes the images wherever it can. MindSpore's pipeline does the
rest: other kinds of sets, other transforms, machines without a compiler.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from mindcv_ghost.data.native.array_images import ArrayImages, eval_arrays, train_arrays
from mindcv_ghost.data.native.images import ImageDecoder, eval_decoder, train_decoder
from mindcv_ghost.data.pipeline.backend import Batches, EvalBackend, SinkPipeline, TrainBackend
from mindcv_ghost.data.pipeline.mindspore_backend import (
    MindSporeEvalBackend,
    MindSporeTrainBackend,
)
from mindcv_ghost.data.pipeline.native_backend import NativeEvalBackend, NativeTrainBackend
from mindcv_ghost.data.pipeline.sharding import EvalShard, TrainSampler, TrainShard
from mindcv_ghost.data.sets.arrays import ArraySource
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.augmentations import MixupCutmix
from mindcv_ghost.data.transforms.factory import eval_transforms, train_transforms
from mindcv_ghost.data.transforms.settings import Augment
from mindcv_ghost.errors import DataError
from mindcv_ghost.native_build import Unavailable

__all__ = ["EvalLoader", "TrainLoader"]


class TrainLoader:
    """Training batches of one rank.

    Args:
        source: the training split.
        augment: settings of the transforms.
        batch_size: images a batch on this rank.
        num_classes: width of one-hot and mixed labels.
        rank: this rank's number, from 0.
        size: number of ranks. Together the ranks' ``k``-th batches are the ``k``-th batch of one
            rank with ``size * batch_size`` images a batch.
        seed: decides, with the epoch, the order of the images and their augmentation. The random
            numbers of MindSpore's operations also depend on the rank and on ``workers``.
        shuffle: False keeps the order of the set.
        num_samples: images an epoch, of all ranks together, drawn again each epoch.
        drop_remainder: leave out the samples after the last whole batch.
        workers: threads of each operation; at most one a core.
        one_hot: labels as float32 (N, num_classes); with mixup or cutmix they always are.
        native: let this package's C++ make the images where it can (``data/native``). False always
            takes MindSpore's pipeline, whose random numbers differ.
        cache_mb: megabytes for the decoded images of a set that fits into them.

    Attributes:
        native: whether this package's C++ makes the images.
        backend_info: which backend makes the images, as a line for the log.
        steps_per_epoch: batches an epoch, the same on every rank.
        images_per_epoch: images an epoch that all ranks train on.

    Raises:
        DataError: if the set is too small for one batch on each rank, or a setting of the
            transforms isn't legal.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        *,
        batch_size: int,
        num_classes: int,
        rank: int = 0,
        size: int = 1,
        seed: int = 42,
        shuffle: bool = True,
        num_samples: int | None = None,
        drop_remainder: bool = True,
        workers: int = 1,
        one_hot: bool = False,
        native: bool = True,
        cache_mb: int = 0,
    ) -> None:
        total = min(len(source), num_samples or len(source))
        shard = TrainShard(total, batch_size, rank, size, drop_remainder)
        if not shard.steps:
            raise DataError(
                f"{total:,} training images don't fill one batch of {batch_size} on each of {size} "
                f"rank{'s' if size > 1 else ''} ({batch_size * size:,} images): lower batch_size "
                f"to at most {max(total // size, 1)} or set drop_remainder: false."
            )
        self.source = source
        self.steps_per_epoch = shard.steps
        self.images_per_epoch = shard.samples * size
        self._sampler = TrainSampler(
            images=len(source),
            shard=shard,
            seed=seed,
            shuffle=shuffle,
            num_samples=num_samples,
            aug_repeats=int(augment.aug_repeats or 0),
        )
        transforms = train_transforms(source.kind, augment, source.in_channels)
        mix = None
        if augment.mixup or augment.cutmix:
            mix = MixupCutmix(
                mixup=augment.mixup,
                cutmix=augment.cutmix,
                prob=augment.cutmix_prob,
                num_classes=num_classes,
            )
        width = num_classes if one_hot and mix is None else 0
        workers = _legal_workers(workers)

        def make() -> ImageDecoder | ArrayImages:
            if isinstance(source, ArraySource):
                return train_arrays(source, transforms)
            return train_decoder(source, augment, transforms, cache_mb=cache_mb)

        decoder, self.backend_info = _choose_decoder(native, make)
        self.native = decoder is not None
        self._backend: TrainBackend
        if decoder is not None:
            self._backend = NativeTrainBackend(
                decoder, self._sampler, mix=mix, one_hot=width, workers=workers
            )
        else:
            self._backend = MindSporeTrainBackend(
                source, augment, self._sampler, transforms, mix=mix, one_hot=width, workers=workers
            )

    def indices(self, epoch: int) -> np.ndarray:
        """Return the indices of the images that this rank reads in an epoch (from 0), in order.

        Batch ``k`` has ``[k * batch_size : (k + 1) * batch_size]``. Bad images are still among
        them, although they are replaced.
        """
        return self._sampler.indices(epoch)

    def names(self, epoch: int, step: int) -> list[str]:
        """Name the images of a batch; epoch and step count from 0."""
        size = self._sampler.shard.batch_size
        indices = self.indices(epoch)[step * size : (step + 1) * size]
        return [self.source.name_of(int(index)) for index in indices]

    def epoch(self, epoch: int, skip: int = 0) -> Batches:
        """Make the batches of one epoch.

        Args:
            epoch: from 0.
            skip: batches to leave out at the start; the others stay the same.

        Returns:
            Batches of image, float32 (N, C, H, W), and label, int32 (N,) or float32
            (N, num_classes).
        """
        return self._backend.epoch(epoch, skip)

    def whole_run(self, first_epoch: int, epochs: int, skip: int = 0) -> SinkPipeline:
        """Make several epochs in one pipeline, for sink mode.

        To MindSpore it is one long epoch (``epoch_num=1``), so that no pass repeats another. The
        order of an epoch is computed when its turn comes.

        Args:
            first_epoch: from 0.
            epochs: how many.
            skip: batches to leave out at the start.

        Returns:
            A pipeline of ``epochs * steps_per_epoch - skip`` batches.
        """
        return self._backend.whole_run(first_epoch, epochs, skip)


class EvalLoader:
    """Batches in which every image of a set comes exactly once, over all ranks together.

    Args:
        source: the split.
        augment: settings; ``image_resize``, ``crop_pct``, ``interpolation``, ``mean``, ``std``.
        batch_size: images a batch on this rank; any size is legal.
        rank: this rank's number, from 0.
        size: number of ranks.
        workers: threads of each operation; at most one a core.
        native: as for :class:`TrainLoader`; the images are the same either way.
        cache_mb: as for :class:`TrainLoader`.

    Attributes:
        steps: batches, the same on every rank.
        backend_info: which backend makes the images, as a line for the log.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        *,
        batch_size: int,
        rank: int = 0,
        size: int = 1,
        workers: int = 1,
        native: bool = True,
        cache_mb: int = 0,
    ) -> None:
        self.source = source
        self._shard = EvalShard(len(source), batch_size, rank, size)
        self.steps = self._shard.steps
        transforms = eval_transforms(source.kind, augment, source.in_channels)
        workers = _legal_workers(workers)

        def make() -> ImageDecoder | ArrayImages:
            if isinstance(source, ArraySource):
                return eval_arrays(source, transforms)
            return eval_decoder(source, augment, cache_mb=cache_mb)

        decoder, self.backend_info = _choose_decoder(native, make)
        self._backend: EvalBackend
        if decoder is not None:
            self._backend = NativeEvalBackend(decoder, self._shard, workers=workers)
        else:
            self._backend = MindSporeEvalBackend(
                source, augment, self._shard, transforms, workers=workers
            )

    @property
    def indices(self) -> np.ndarray:
        """Indices of this rank's images in the source, in order; -1 is padding at the end."""
        return self._shard.indices()

    def batches(self) -> Batches:
        """Make all batches, of one shape.

        Returns:
            Batches of image, float32 (N, C, H, W), label, int32 (N,), and valid, int32 (N,). valid
            is 0 for padding of the last batches, 1 for an image, and 2 for a bad image while
            ``on_bad_image`` is "skip": it is black, and counts as not recognised.
        """
        return self._backend.batches()


def _choose_decoder(
    native: bool, make: Callable[[], ImageDecoder | ArrayImages]
) -> tuple[ImageDecoder | ArrayImages | None, str]:
    """Return the native decoder, or None where MindSpore's pipeline is used; and a log line."""
    try:
        if not native:
            raise Unavailable("native_loader is false")
        decoder = make()
    except Unavailable as reason:
        return None, f"MindSpore's image pipeline: {reason}"
    return decoder, decoder.info


def _legal_workers(workers: int) -> int:
    """Limit the threads of an operation to what MindSpore accepts.

    It compares with the machine's cores, not with those that this process may run on
    ("num_parallel_workers exceeds the boundary between 1 and 2"). A lower limit would change the
    random numbers of its operations, which depend on the number of threads.
    """
    return max(1, min(workers, os.cpu_count() or 1))
