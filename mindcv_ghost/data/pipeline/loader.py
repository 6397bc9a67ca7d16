"""Batches for training and evaluation: our order of images, made by our C++ or MindSpore's.

Where ``data/native`` can make what is asked for, it does: threads that make eight images a call,
straight into the batch. Otherwise one ``GeneratorDataset`` reads the files ahead in threads (never
in processes: these need shared memory and outlive a killed parent), C++ ``map`` operations decode
and augment in ``workers`` threads, and one batch operation ends it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mindspore as ms
import mindspore.dataset as ds
import mindspore.dataset.transforms as data_ops
import numpy as np

from mindcv_ghost.data.native.batches import JoinedBatches, NativeBatches
from mindcv_ghost.data.native.images import (
    evaluation_settings,
    native_images,
    training_settings,
)
from mindcv_ghost.data.native.passes import evaluation_pass, training_pass
from mindcv_ghost.data.pipeline.batches import Batches, set_pipeline_seed
from mindcv_ghost.data.pipeline.sharding import (
    EvalShard,
    TrainShard,
    epoch_order,
    mix_seed,
    sample_seeds,
)
from mindcv_ghost.data.pipeline.stream import (
    SampleStream,
    SizedStream,
    blank_image,
    read_or_replace,
)
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.seeded import Mix, SeededOp
from mindcv_ghost.data.transforms.transforms import Augment, eval_transforms, train_transforms
from mindcv_ghost.errors import DataError

__all__ = ["EvalLoader", "TrainLoader", "WholeRun"]

_NOT_WANTED = "native_loader is false"


@dataclass(frozen=True)
class WholeRun:
    """The batches of many epochs, for a device that fetches them.

    Args:
        dataset: the pipeline.
        check: raises the DataError of a batch that couldn't be made, called with its number from 0.
            The pipeline itself goes on with batches that mustn't be used.
    """

    dataset: ds.Dataset
    check: Callable[[int], None]


class TrainLoader:
    """Training batches of one rank.

    Args:
        source: the training split.
        augment: settings of the transforms (an ``Augment`` or a Config's section of its fields).
        batch_size: images a batch on this rank.
        num_classes: width of one-hot and mixed labels.
        rank, size: this rank's place among how many; together the ranks' ``k``-th batches are
            what one rank with ``size * batch_size`` images a batch would see.
        seed: with the epoch it decides the order and what happens to each image; MindSpore's
            operations, where they are used, also draw by rank and by the number of workers.
        shuffle: False keeps the order of the set.
        num_samples: images an epoch, of all ranks together, drawn anew each time.
        drop_remainder: leave out the samples after the last whole batch.
        workers: threads of each operation; at most one a core.
        one_hot: labels as float32 (N, num_classes); mixup and cutmix make them so anyway.
        native: make images by C++ of our own where it can (``data/native``); False leaves all to
            MindSpore's pipeline, whose draws are others.
        cache_mb: megabytes for the decoded images of a set that fits into them.

    Attributes:
        maker: what makes the images, for the log.
        steps_per_epoch: batches an epoch, the same on every rank.
        images_per_epoch: images an epoch that all ranks train on.

    Raises:
        DataError: if the ranks need more images than there are for one batch, or a setting of the
            transforms can't be.
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
    ):
        self.source, self._seed, self._one_hot = source, seed, one_hot
        self._num_classes, self._workers = num_classes, _clamp(workers)
        self._order = {
            "shuffle": shuffle,
            "num_samples": num_samples,
            "aug_repeats": int(augment.aug_repeats or 0),
        }
        total = min(len(source), num_samples or len(source))
        self._shard = TrainShard(total, batch_size, rank, size, drop_remainder)
        self.steps_per_epoch = self._shard.steps
        self.images_per_epoch = self._shard.samples * size
        if not self.steps_per_epoch:
            raise DataError(
                f"{total:,} training images don't fill one batch of {batch_size} on each of {size} "
                f"rank{'s' if size > 1 else ''} ({batch_size * size:,} images): lower batch_size "
                f"to at most {max(total // size, 1)} or set drop_remainder: false."
            )
        self._transforms = train_transforms(source.kind, augment, source.in_channels)
        self._mix = None
        if augment.mixup or augment.cutmix:
            self._mix = Mix(
                mixup=augment.mixup,
                cutmix=augment.cutmix,
                prob=augment.cutmix_prob,
                num_classes=num_classes,
            )
        self._needs_seeds = self._mix is not None or self._transforms.needs_seeds
        settings = training_settings(source, augment) if native else _NOT_WANTED
        steps = self._transforms
        python = [
            [op for op in ops if isinstance(op, SeededOp)] for ops in (steps.middle, steps.after)
        ]
        self._images, self.maker = native_images(source, settings, *python, cache_mb=cache_mb)

    @property
    def native(self) -> bool:
        """Whether our own C++ makes the images, whose draws aren't MindSpore's."""
        return self._images is not None

    def indices(self, epoch: int) -> np.ndarray:
        """Indices of the images this rank reads in an epoch, in order: batch ``k`` has
        ``[k * batch_size : (k + 1) * batch_size]`` (bad ones among them are replaced).
        """
        order = epoch_order(len(self.source), seed=self._seed, epoch=epoch, **self._order)
        return order[self._shard.positions()]

    def names(self, epoch: int, step: int) -> list[str]:
        """Names of the images of a batch; epoch and step count from 0."""
        size = self._shard.batch_size
        indices = self.indices(epoch)[step * size : (step + 1) * size]
        return [self.source.name_of(int(index)) for index in indices]

    def epoch(self, epoch: int, skip: int = 0) -> Batches | NativeBatches:
        """One epoch of batches: image, float32 (N, C, H, W), and label, int32 (N,) or float32
        (N, num_classes). The first ``skip`` of them are left out, the others are the same.
        """
        if self._images is not None:
            return self._native_epoch(epoch, skip)
        stream = SampleStream(
            self.source, lambda: self._items(range(epoch, epoch + 1)), self._row, self._workers
        )
        return Batches(
            self._dataset(stream),
            self.source,
            rows=self._shard.samples * self._transforms.splits,
            batch_rows=self._shard.batch_size * self._transforms.splits,
            seed=self._pipeline_seed(epoch),
            skip=skip,
        )

    def whole_run(self, first_epoch: int, epochs: int, skip: int = 0) -> WholeRun:
        """Several epochs in one pipeline of ``epochs * steps_per_epoch`` batches, for sink mode.
        The first ``skip`` batches are left out. Each epoch is put together when its turn comes.

        To MindSpore it is one long epoch (``epoch_num=1``), so that no pass repeats another. The
        order is that of ``epoch``; what MindSpore's operations draw differs after the first epoch.
        """
        steps = self.steps_per_epoch
        if self._images is not None:

            def parts() -> Iterator[NativeBatches]:
                for k in range(epochs):
                    left_out = min(max(skip - k * steps, 0), steps)
                    yield self._native_epoch(first_epoch + k, left_out)

            batches = JoinedBatches(parts, steps * epochs - skip)
            return WholeRun(_generator(batches, ["image", "label"]), batches.check)
        samples, size = self._shard.samples, self._shard.batch_size
        stream = SizedStream(
            self.source,
            lambda: self._items(range(first_epoch, first_epoch + epochs)),
            self._row,
            self._workers,
            length=samples * epochs,
            blank=lambda: self._with_key(blank_image(self.source), 0, 0),
        )
        dataset = self._dataset(stream)
        set_pipeline_seed(self._pipeline_seed(first_epoch))

        def check(batch: int) -> None:
            epoch, step = divmod(batch + skip, steps)
            stream.check(epoch * samples + min((step + 1) * size, samples) - 1)

        dataset = dataset.skip(skip) if skip else dataset
        # Where batches differ in size MindSpore would make them all to count them.
        dataset.dataset_size = steps * epochs - skip
        return WholeRun(dataset, check)

    def _native_epoch(self, epoch: int, skip: int) -> NativeBatches:
        return training_pass(
            self._images,
            indices=self.indices(epoch),
            seeds=sample_seeds(self._shard.positions(), seed=self._seed, epoch=epoch),
            batch_rows=self._shard.batch_size,
            workers=self._workers,
            mix=self._mix,
            one_hot=self._num_classes if self._one_hot else 0,
            skip=skip,
        )

    def _pipeline_seed(self, epoch: int) -> int:
        return mix_seed(self._seed, epoch, self._shard.rank)

    def _dataset(self, stream: SampleStream) -> ds.Dataset:
        columns = ["image", "label", "key"] if self._needs_seeds else ["image", "label"]
        return self._batches(_generator(stream, columns))

    def _items(self, epochs: range) -> Iterator[tuple]:
        for epoch in epochs:
            indices = self.indices(epoch)
            seeds = sample_seeds(self._shard.positions(), seed=self._seed, epoch=epoch)
            for place in range(len(indices)):
                yield indices, place, seeds[place]

    def _row(self, item: tuple) -> tuple:
        indices, place, seed = item
        image, label = read_or_replace(self.source, indices, place)
        return self._with_key(image, label, seed)

    def _with_key(self, image: np.ndarray, label: int, seed: int) -> tuple:
        row = (image, np.array(label, np.int32))
        return (*row, np.array(seed)) if self._needs_seeds else row

    def _batches(self, dataset: ds.Dataset) -> ds.Dataset:
        workers, steps = self._workers, self._transforms
        dataset = _map(dataset, steps.before, "image", workers)
        if steps.splits == 3:
            dataset = self._three_copies(dataset)
        else:
            dataset = _map(dataset, steps.middle + steps.after, "image", workers)
        if self._one_hot and self._mix is None:
            one_hot = [data_ops.OneHot(self._num_classes), data_ops.TypeCast(ms.float32)]
            dataset = _map(dataset, one_hot, "label", 1)
        whole = self._shard.samples % self._shard.batch_size == 0
        rows = self._shard.batch_size if whole else self._rows_of_batch
        dataset = dataset.batch(rows, num_parallel_workers=1)
        if steps.splits == 3:
            dataset = dataset.map(
                _concatenate,
                ["clean", "first", "second", "label"],
                ["image", "label"],
                num_parallel_workers=1,
                python_multiprocessing=False,
            )
        if self._mix is not None:
            dataset = dataset.map(
                lambda images, labels, keys: self._mix(images, labels, keys[0]),
                ["image", "label", "key"],
                ["image", "label"],
                num_parallel_workers=1,
                python_multiprocessing=False,
            )
        return dataset.project(["image", "label"])

    def _rows_of_batch(self, batch: ds.BatchInfo) -> int:
        """A batch's size; an epoch's last one may be smaller, and another epoch may follow it."""
        step = batch.get_batch_num() % self.steps_per_epoch
        return min(self._shard.batch_size, self._shard.samples - step * self._shard.batch_size)

    def _three_copies(self, dataset: ds.Dataset) -> ds.Dataset:
        """Columns clean, first and second in place of image; MindCV's own way of doing this fails
        under MindSpore 2 ("unexpected keyword argument 'column_order'").
        """
        workers, steps = self._workers, self._transforms
        dataset = dataset.map(data_ops.Duplicate(), ["image"], ["clean", "first"])
        dataset = dataset.map(data_ops.Duplicate(), ["first"], ["first", "second"])
        for salt, column in enumerate(("clean", "first", "second")):
            ops = (steps.middle if salt else []) + steps.after
            dataset = _map(dataset, ops, column, workers, salt)
        return dataset


class EvalLoader:
    """Batches in which every image of a set comes exactly once, over all ranks together.

    Args:
        source: the split.
        augment: settings; ``image_resize``, ``crop_pct``, ``interpolation``, ``mean``, ``std``.
        batch_size: images a batch on this rank, any.
        rank, size: this rank's place among how many.
        workers: threads of each operation; at most one a core.
        native, cache_mb: as for :class:`TrainLoader`; the images are the same either way.

    Attributes:
        steps: batches, the same on every rank.
        maker: what makes the images, for the log.
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
    ):
        self.source = source
        self._shard = EvalShard(len(source), batch_size, rank, size)
        self._workers = _clamp(workers)
        self._transforms = eval_transforms(source.kind, augment, source.in_channels)
        self._blank = blank_image(source)
        self.steps = self._shard.steps
        settings = evaluation_settings(source, augment) if native else _NOT_WANTED
        self._images, self.maker = native_images(source, settings, cache_mb=cache_mb)

    @property
    def indices(self) -> np.ndarray:
        """Places in the source of this rank's images, in order, -1 where batches are filled up."""
        return self._shard.indices()

    def batches(self) -> Batches | NativeBatches:
        """All batches, of one shape: image, float32 (N, C, H, W), label, int32 (N,), and valid,
        int32 (N,).

        valid is 0 where the last batches are filled up, 1 for an image, and 2 for one that is bad
        while ``on_bad_image`` is "skip": it counts, as not recognised, and has a black image.
        """
        indices, size = self.indices, self._shard.batch_size
        if self._images is not None:
            return evaluation_pass(
                self._images, indices=indices, batch_rows=size, workers=self._workers
            )
        stream = SampleStream(self.source, indices.tolist, self._row, self._workers)
        dataset = _generator(stream, ["image", "label", "valid"])
        dataset = _map(dataset, self._transforms, "image", self._workers)
        dataset = dataset.batch(size, num_parallel_workers=1)
        return Batches(dataset, self.source, rows=len(indices), batch_rows=size, seed=0)

    def _row(self, index: int) -> tuple:
        image, label, valid = self._blank, 0, 0
        if index >= 0:
            try:
                (image, label), valid = self.source[index], 1
            except DataError:
                if self.source.on_bad_image != "skip":
                    raise
                label, valid = self.source.label_of(index), 2
        return image, np.array(label, np.int32), np.array(valid, np.int32)


def _generator(stream: SampleStream, columns: list[str]) -> ds.GeneratorDataset:
    return ds.GeneratorDataset(
        stream, columns, num_parallel_workers=1, python_multiprocessing=False
    )


def _map(dataset: ds.Dataset, ops: list, column: str, workers: int, salt: int = 0) -> ds.Dataset:
    """Apply operations to a column; a ``SeededOp`` also gets the row's key.

    ``salt`` tells columns apart that are made of one row.
    """
    for seeded, group in itertools.groupby(ops, lambda op: isinstance(op, SeededOp)):
        if not seeded:
            dataset = dataset.map(list(group), column, num_parallel_workers=workers)
            continue
        for op in group:
            salt += 16
            dataset = dataset.map(
                lambda image, key, op=op, salt=salt: (op(image, int(key) ^ salt), key),
                [column, "key"],
                [column, "key"],
                num_parallel_workers=workers,
                python_multiprocessing=False,
            )
    return dataset


def _concatenate(clean, first, second, label):
    return np.concatenate((clean, first, second)), np.concatenate((label, label, label))


def _clamp(workers: int) -> int:
    """MindSpore refuses more threads than cores ("exceeds the boundary between 1 and 2")."""
    return max(1, min(workers, os.cpu_count() or 1))
