"""Batches that threads fill by calling the native library, a few batches ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import mindspore as ms
import numpy as np

from mindcv_ghost.data.pipeline.backend import Batches
from mindcv_ghost.data.pipeline.malloc import reuse_large_blocks
from mindcv_ghost.errors import DataError

__all__ = ["ChainedBatches", "NativeBatches"]

_CHUNK = 8  # images a task: handing over a task costs 30 us
# Batches in work besides the consumer's: 77 MB at 64 images of 224x224.
_AHEAD = 2


class NativeBatches(Batches):
    """The batches of one pass.

    Each image depends on its position in the pass alone. So batches can be skipped without making
    them, and the numbers of threads and ranks change no image.

    Args:
        rows: images in the whole pass.
        batch_rows: images a batch; the last one may be smaller.
        workers: threads.
        allocate: returns the arrays for a batch of the given number of images.
        fill: ``fill(arrays, row, start, stop)`` makes images ``[start, stop)`` of the pass into the
            arrays' rows from ``row`` on. Called from the threads. If it raises DataError for
            several images, the first one's is raised at their batch.
        finish: ``finish(arrays, start)`` turns the filled arrays of the batch that begins at
            ``start`` into the batch; also called from a thread.
        skip: batches to leave out at the start.
    """

    def __init__(
        self,
        *,
        rows: int,
        batch_rows: int,
        workers: int,
        allocate: Callable[[int], list[np.ndarray]],
        fill: Callable[[list[np.ndarray], int, int, int], None],
        finish: Callable[[list[np.ndarray], int], list[np.ndarray]] | None = None,
        skip: int = 0,
    ) -> None:
        self._rows, self._batch_rows, self._workers, self._skip = rows, batch_rows, workers, skip
        self._allocate, self._fill, self._finish = allocate, fill, finish

    def __len__(self) -> int:
        return max(0, -(-self._rows // self._batch_rows) - self._skip)

    def zeros(self) -> list[np.ndarray]:
        """Return zeros in the shapes of the first batch."""
        start = self._skip * self._batch_rows
        arrays = self._allocate(min(self._batch_rows, self._rows - start))
        for array in arrays:
            array.fill(0)
        return self._finish(arrays, start) if self._finish else arrays

    def _iterate(self, output_numpy: bool) -> Iterator[list]:
        reuse_large_blocks()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="mindcv_ghost_read")
        pending: deque[Future[list[np.ndarray]]] = deque()

        def next_batch() -> list:
            arrays = pending.popleft().result()
            return arrays if output_numpy else [ms.Tensor.from_numpy(array) for array in arrays]

        try:
            for start in range(self._skip * self._batch_rows, self._rows, self._batch_rows):
                pending.append(self._submit(pool, start))
                if len(pending) > _AHEAD:
                    yield next_batch()
            while pending:
                yield next_batch()
        finally:
            # No wait: a task takes milliseconds, and the consumer may be in a hurry.
            pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, start: int) -> Future[list[np.ndarray]]:
        """Submit a batch in chunks; the returned future is that of the whole batch."""
        stop = min(start + self._batch_rows, self._rows)
        arrays = self._allocate(stop - start)
        chunk = max(1, min(_CHUNK, -(-(stop - start) // self._workers)))
        chunks = [
            pool.submit(self._fill, arrays, first - start, first, min(first + chunk, stop))
            for first in range(start, stop, chunk)
        ]

        def whole() -> list[np.ndarray]:
            # No deadlock: tasks start in order, so these chunks are done or have a thread.
            for each in chunks:
                each.result()
            return self._finish(arrays, start) if self._finish else arrays

        return pool.submit(whole)


class ChainedBatches:
    """The batches of several passes one after another, for MindSpore's ``GeneratorDataset``.

    A failing pass raises nothing here: MindSpore would throw away the good batches that wait in its
    queues, a number that differs from run to run, and raise thirty lines. Instead the last good
    batch is repeated, and ``check`` raises the error in the thread that trains.

    Args:
        passes: makes the passes, each when its turn comes.
        batches: in all passes together.
    """

    def __init__(self, passes: Callable[[], Iterable[NativeBatches]], batches: int) -> None:
        self._passes, self._length = passes, batches
        self._failed_at = batches
        self._error: DataError | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        count, arrays = 0, None
        try:
            for each in self._passes():
                for arrays in each.create_tuple_iterator(output_numpy=True):
                    yield tuple(arrays)
                    count += 1
        except DataError as error:
            self._failed_at, self._error = count, error
            if arrays is None:
                # The first pass is empty if a run resumes after the last batch of an epoch.
                arrays = next(each for each in self._passes() if len(each)).zeros()
            while count < self._length:
                yield tuple(arrays)
                count += 1

    def check(self, batch: int) -> None:
        """Raise the error of a pass, if it failed at this batch (from 0) or before."""
        if self._error is not None and batch >= self._failed_at:
            raise self._error

    def __deepcopy__(self, memo: dict) -> ChainedBatches:
        return self  # MindSpore copies a pipeline for each iterator; the source may be large
