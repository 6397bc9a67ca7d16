"""One pass of batches whose images the library makes, a few batches ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import mindspore as ms
import numpy as np

from mindcv_ghost.data.pipeline.memory import keep_large_blocks
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.errors import DataError

__all__ = ["JoinedBatches", "NativeBatches"]

_CHUNK = 8  # images a task: a task of one costs 30 us of hand-over
# Batches under way besides the one that the consumer has: 77 MB at 64 images of 224x224.
_AHEAD = 2


class NativeBatches:
    """The batches of one pass, as ``batches.Batches`` gives them: iterate over it, once or again.

    Each image depends on its place in the pass alone, so that batches can be left out without being
    made, and neither the number of threads nor that of ranks changes any.

    Args:
        source: where images come from; gets the DataError that ends a pass as ``failure``.
        rows: images in the whole pass.
        batch_rows: images a batch; the last one may be smaller.
        workers: threads.
        empty: gives the arrays of a batch of so many images.
        fill: makes images ``[start, stop)`` of the pass into the arrays' rows from ``row`` on; is
            called from the threads. If images of a batch fail, the first one's DataError is raised
            at that batch.
        finish: turns a batch's arrays into what is given to the consumer, also in a thread.
        skip: batches that an earlier process has had.
    """

    def __init__(
        self,
        source: Source,
        *,
        rows: int,
        batch_rows: int,
        workers: int,
        empty: Callable[[int], list[np.ndarray]],
        fill: Callable[[list[np.ndarray], int, int, int], None],
        finish: Callable[[list[np.ndarray], int], list[np.ndarray]] | None = None,
        skip: int = 0,
    ):
        self._source, self._rows, self._batch_rows, self._workers = (
            source,
            rows,
            batch_rows,
            workers,
        )
        self._empty, self._fill, self._finish, self._skip = empty, fill, finish, skip

    def __len__(self) -> int:
        return max(0, -(-self._rows // self._batch_rows) - self._skip)

    def __iter__(self) -> Iterator[list[ms.Tensor]]:
        return self.create_tuple_iterator()

    def create_tuple_iterator(
        self, num_epochs: int = 1, output_numpy: bool = False
    ) -> Iterator[list]:
        """As MindSpore's, for one epoch: lists of Tensors, or of arrays."""
        if num_epochs != 1:
            raise ValueError("one epoch at a time: each has an order of its own")
        return self._batches(output_numpy)

    def _batches(self, output_numpy: bool) -> Iterator[list]:
        self._source.failure = None
        keep_large_blocks()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="mindcv_ghost_read")
        under_way: deque[Future] = deque()
        try:
            for start in range(self._skip * self._batch_rows, self._rows, self._batch_rows):
                under_way.append(self._submit(pool, start))
                if len(under_way) > _AHEAD:
                    yield self._given(under_way.popleft(), output_numpy)
            while under_way:
                yield self._given(under_way.popleft(), output_numpy)
        finally:
            # Not waiting: a task takes milliseconds, and the consumer may be in a hurry.
            pool.shutdown(wait=False, cancel_futures=True)

    def blank(self) -> list[np.ndarray]:
        """Arrays like those of the first batch, without images."""
        start = self._skip * self._batch_rows
        arrays = self._empty(min(self._batch_rows, self._rows - start))
        for array in arrays:
            array.fill(0)
        return self._finish(arrays, start) if self._finish else arrays

    def _given(self, batch: Future, output_numpy: bool) -> list:
        try:
            arrays = batch.result()
        except DataError as error:
            self._source.failure = error
            raise
        return arrays if output_numpy else [ms.Tensor.from_numpy(array) for array in arrays]

    def _submit(self, pool: ThreadPoolExecutor, start: int) -> Future:
        """Hand out a batch in chunks; the future is that of the whole batch."""
        stop = min(start + self._batch_rows, self._rows)
        arrays = self._empty(stop - start)
        chunk = max(1, min(_CHUNK, -(-(stop - start) // self._workers)))
        chunks = [
            pool.submit(self._fill, arrays, first - start, first, min(first + chunk, stop))
            for first in range(start, stop, chunk)
        ]

        def whole() -> list[np.ndarray]:
            # Tasks start in order: those that this one waits for are done or have a thread.
            for each in chunks:
                each.result()
            return self._finish(arrays, start) if self._finish else arrays

        return pool.submit(whole)


class JoinedBatches:
    """Several passes one after another, as arrays, for MindSpore's ``GeneratorDataset``.

    A pass that fails doesn't raise here: MindSpore would throw away the good batches that are
    waiting in its queues, a number that differs from run to run, and raise thirty lines. From the
    failed batch on the last good one is given again, and ``check`` tells the thread that trains.

    Args:
        parts: makes the passes, each when its turn comes.
        batches: in all of them together.
    """

    def __init__(self, parts: Callable[[], Iterable[NativeBatches]], batches: int):
        self._parts, self._length = parts, batches
        self._failed_at, self._error = 0, None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        count, arrays = 0, None
        try:
            for part in self._parts():
                for arrays in part.create_tuple_iterator(output_numpy=True):
                    yield tuple(arrays)
                    count += 1
        except DataError as error:
            self._failed_at, self._error = count, error
            if arrays is None:
                # A pass may be empty: of a run that goes on after an epoch's last batch.
                arrays = next(part for part in self._parts() if len(part)).blank()
            while count < self._length:
                yield tuple(arrays)
                count += 1

    def check(self, batch: int) -> None:
        """Raise what made a pass fail, if it did at this batch (counted from 0) or before."""
        if self._error is not None and batch >= self._failed_at:
            raise self._error

    def __deepcopy__(self, memo: dict) -> JoinedBatches:
        return self  # MindSpore copies a pipeline for each iterator; the source may be large
