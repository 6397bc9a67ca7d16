"""Batches by MindSpore's pipeline, which has every transform.

One ``GeneratorDataset`` reads the files ahead in threads, ``map`` operations in C++ decode and
augment in ``workers`` threads, and one batch operation ends the pipeline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import mindspore as ms
import mindspore.dataset as ds
import mindspore.dataset.transforms as data_ops
import numpy as np

from mindcv_ghost.data.pipeline.backend import SinkPipeline, generator_dataset
from mindcv_ghost.data.pipeline.bad_images import black_image, first_readable
from mindcv_ghost.data.pipeline.mindspore_batches import MindSporeBatches, set_pipeline_seed
from mindcv_ghost.data.pipeline.sample_stream import FixedLengthStream, SampleStream
from mindcv_ghost.data.pipeline.sharding import EvalShard, TrainSampler, mix_seed
from mindcv_ghost.data.sets.image_file import image_size
from mindcv_ghost.data.sets.image_folder import FolderSource
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.augmentations import MixupCutmix
from mindcv_ghost.data.transforms.factory import TrainTransforms
from mindcv_ghost.data.transforms.seeded import SeededOp
from mindcv_ghost.data.transforms.settings import Augment
from mindcv_ghost.errors import DataError

__all__ = ["MindSporeEvalBackend", "MindSporeTrainBackend"]

_MAX_ENLARGING = 1000  # MindSpore 2.8's Resize: "it's 1000 times bigger than the original image"


class MindSporeTrainBackend:
    """Training batches of one rank by MindSpore's pipeline.

    The random numbers of MindSpore's own operations depend on the seed, the epoch, the rank and the
    number of workers; those of ``SeededOp`` and mixup on the sampler's seeds alone.

    Args:
        source: the training split.
        augment: settings of the transforms.
        sampler: which images come, and their seeds.
        transforms: the operations.
        mix: mixup and cutmix over a batch, or None.
        one_hot: width of one-hot labels; 0 for class numbers.
        workers: threads of each operation.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        sampler: TrainSampler,
        transforms: TrainTransforms,
        *,
        mix: MixupCutmix | None,
        one_hot: int,
        workers: int,
    ) -> None:
        self._source, self._sampler, self._shard = source, sampler, sampler.shard
        self._read = _reader(source, max(augment.size), centre=False)
        self._transforms, self._mix, self._one_hot = transforms, mix, one_hot
        self._workers = workers
        self._needs_seeds = mix is not None or transforms.seeded

    def epoch(self, epoch: int, skip: int) -> MindSporeBatches:
        """Make the batches of one epoch (from 0), without the first ``skip``."""
        stream = SampleStream(
            lambda: self._items(range(epoch, epoch + 1)), self._row, self._workers
        )
        return MindSporeBatches(
            self._dataset(stream),
            stream,
            rows=self._shard.samples * self._transforms.splits,
            batch_rows=self._shard.batch_size * self._transforms.splits,
            seed=self._pipeline_seed(epoch),
            skip=skip,
        )

    def whole_run(self, first_epoch: int, epochs: int, skip: int) -> SinkPipeline:
        """Make the batches of ``epochs`` epochs in one pipeline, without the first ``skip``.

        The order of images is that of ``epoch``. The random numbers of MindSpore's operations
        differ after the first epoch.
        """
        steps, samples, size = self._shard.steps, self._shard.samples, self._shard.batch_size
        stream = FixedLengthStream(
            lambda: self._items(range(first_epoch, first_epoch + epochs)),
            self._row,
            self._workers,
            length=samples * epochs,
            filler=lambda: self._with_seed(black_image(self._source), 0, 0),
        )
        dataset = self._dataset(stream)
        set_pipeline_seed(self._pipeline_seed(first_epoch))

        def check(batch: int) -> None:
            epoch, step = divmod(batch + skip, steps)
            stream.check(epoch * samples + min((step + 1) * size, samples) - 1)

        dataset = dataset.skip(skip) if skip else dataset
        # If batches differ in size, MindSpore would make all of them to count them.
        dataset.dataset_size = steps * epochs - skip
        return SinkPipeline(dataset, check)

    def _pipeline_seed(self, epoch: int) -> int:
        return mix_seed(self._sampler.seed, epoch, self._shard.rank)

    def _items(self, epochs: range) -> Iterator[tuple]:
        for epoch in epochs:
            indices, seeds = self._sampler.indices(epoch), self._sampler.seeds(epoch)
            for position in range(len(indices)):
                yield indices, position, seeds[position]

    def _row(self, item: tuple) -> tuple:
        indices, position, seed = item
        skip = self._source.on_bad_image == "skip"
        image, label = first_readable(self._read, indices, position, skip=skip)
        return self._with_seed(image, label, seed)

    def _with_seed(self, image: np.ndarray, label: int, seed: int) -> tuple:
        row = (image, np.array(label, np.int32))
        return (*row, np.array(seed)) if self._needs_seeds else row

    def _dataset(self, stream: SampleStream) -> ds.Dataset:
        workers, transforms = self._workers, self._transforms
        columns = ["image", "label", "seed"] if self._needs_seeds else ["image", "label"]
        dataset = generator_dataset(stream, columns)
        dataset = _map(dataset, transforms.primary, "image", workers)
        if transforms.splits == 3:
            dataset = self._three_copies(dataset)
        else:
            dataset = _map(dataset, transforms.secondary + transforms.final, "image", workers)
        if self._one_hot:
            one_hot = [data_ops.OneHot(self._one_hot), data_ops.TypeCast(ms.float32)]
            dataset = _map(dataset, one_hot, "label", 1)
        equal = self._shard.samples % self._shard.batch_size == 0
        rows = self._shard.batch_size if equal else self._rows_of_batch
        dataset = dataset.batch(rows, num_parallel_workers=1)
        if transforms.splits == 3:
            dataset = dataset.map(
                _concatenate,
                ["clean", "first", "second", "label"],
                ["image", "label"],
                num_parallel_workers=1,
                python_multiprocessing=False,
            )
        mix = self._mix
        if mix is not None:
            dataset = dataset.map(
                lambda images, labels, seeds: mix(images, labels, seeds[0]),
                ["image", "label", "seed"],
                ["image", "label"],
                num_parallel_workers=1,
                python_multiprocessing=False,
            )
        return dataset.project(["image", "label"])

    def _rows_of_batch(self, batch: ds.BatchInfo) -> int:
        """Size of a batch; the last one of each epoch may be smaller."""
        step = batch.get_batch_num() % self._shard.steps
        return min(self._shard.batch_size, self._shard.samples - step * self._shard.batch_size)

    def _three_copies(self, dataset: ds.Dataset) -> ds.Dataset:
        """Replace the column image by clean, first and second.

        MindCV's own way fails under MindSpore 2 ("unexpected keyword argument 'column_order'").
        """
        transforms = self._transforms
        dataset = dataset.map(data_ops.Duplicate(), ["image"], ["clean", "first"])
        dataset = dataset.map(data_ops.Duplicate(), ["first"], ["first", "second"])
        for salt, column in enumerate(("clean", "first", "second")):
            ops = (transforms.secondary if salt else []) + transforms.final
            dataset = _map(dataset, ops, column, self._workers, salt)
        return dataset


class MindSporeEvalBackend:
    """Evaluation batches of one rank by MindSpore's pipeline.

    Args:
        source: the split.
        augment: settings of the transforms.
        shard: which images come.
        transforms: the operations.
        workers: threads of each operation.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        shard: EvalShard,
        transforms: list,
        *,
        workers: int,
    ) -> None:
        self._source, self._shard = source, shard
        resize = augment.eval_resize
        centre = isinstance(resize, int)
        side = resize if isinstance(resize, int) else max(resize)
        self._read = _reader(source, side, centre=centre)
        self._transforms, self._workers = transforms, workers
        self._black = black_image(source)

    def batches(self) -> MindSporeBatches:
        """Make all batches; see ``EvalLoader.batches``."""
        indices = self._shard.indices()
        stream = SampleStream(indices.tolist, self._row, self._workers)
        dataset = generator_dataset(stream, ["image", "label", "valid"])
        dataset = _map(dataset, self._transforms, "image", self._workers)
        dataset = dataset.batch(self._shard.batch_size, num_parallel_workers=1)
        return MindSporeBatches(
            dataset, stream, rows=len(indices), batch_rows=self._shard.batch_size, seed=0
        )

    def _row(self, index: int) -> tuple:
        image, label, valid = self._black, 0, 0
        if index >= 0:
            try:
                (image, label), valid = self._read(index), 1
            except DataError:
                if self._source.on_bad_image != "skip":
                    raise
                label, valid = self._source.label_of(index), 2
        return image, np.array(label, np.int32), np.array(valid, np.int32)


def _reader(source: Source, side: int, *, centre: bool) -> Callable[[int], tuple[np.ndarray, int]]:
    """Return what reads images that MindSpore's operations can make ``side`` pixels of.

    With ``centre`` only the middle of a long ribbon is read.
    """
    if not isinstance(source, FolderSource):
        return source.__getitem__
    read = source.read_centre if centre else source.__getitem__
    if side <= _MAX_ENLARGING:
        return read

    def read_enlargeable(index: int) -> tuple[np.ndarray, int]:
        image, label = read(index)
        width, height = image_size(image)
        if side > _MAX_ENLARGING * min(width, height):
            raise source.found_bad(
                index,
                f"is {width} x {height} pixels, and MindSpore makes no more than {_MAX_ENLARGING} "
                f"of one; {side} are asked for (image_resize). The native loader does.",
            )
        return image, label

    return read_enlargeable


def _map(dataset: ds.Dataset, ops: list, column: str, workers: int, salt: int = 0) -> ds.Dataset:
    """Apply operations to a column; a ``SeededOp`` also gets the row's seed.

    ``salt`` gives the copies of one image (three with ``aug_splits``) different random numbers.
    """
    for seeded, group in itertools.groupby(ops, lambda op: isinstance(op, SeededOp)):
        if not seeded:
            dataset = dataset.map(list(group), column, num_parallel_workers=workers)
            continue
        for op in group:
            salt += 16
            dataset = dataset.map(
                lambda image, seed, op=op, salt=salt: (op(image, int(seed) ^ salt), seed),
                [column, "seed"],
                [column, "seed"],
                num_parallel_workers=workers,
                python_multiprocessing=False,
            )
    return dataset


def _concatenate(
    clean: np.ndarray, first: np.ndarray, second: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate((clean, first, second)), np.concatenate((label, label, label))
