"""Rows for MindSpore's ``GeneratorDataset``: read ahead by threads, ended by a bad image.

Not by MindSpore's ``ImageFolderDataset``: it lists the folder again, shuffles by a generator of its
own, and its decoder sees each file before we could check it. What the detour costs is measured by
``benchmarks/data_loading.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mindcv_ghost.errors import DataError

__all__ = ["FixedLengthStream", "SampleStream", "read_ahead"]

_CHUNK = 8  # rows a task: handing over a task costs 30 us


class SampleStream:
    """One rank's rows; a bad image ends them and is kept as ``error``.

    The stream ends without an exception: MindSpore would drop the batches that are ready and raise
    a RuntimeError of thirty lines. This way the consumer gets every batch before the bad image, the
    same ones in each run, and then looks at ``error``.

    Args:
        items: gives a fresh iterator over the arguments of ``read``.
        read: turns an item into a row (a tuple of arrays); may raise DataError.
        workers: threads that read ahead.

    Attributes:
        error: the DataError that ended the stream, or None.
    """

    def __init__(
        self, items: Callable[[], Iterable], read: Callable[[Any], tuple], workers: int
    ) -> None:
        self._items, self._read, self._workers = items, read, workers
        self.error: DataError | None = None

    def __iter__(self) -> Iterator[tuple]:
        try:
            yield from read_ahead(self._read, self._items(), self._workers)
        except DataError as error:
            self.error = error

    # No __len__: MindSpore would insist on this number of rows.

    def __deepcopy__(self, memo: dict) -> SampleStream:
        return self  # MindSpore copies a pipeline for each iterator; the source may be large


class FixedLengthStream(SampleStream):
    """A stream of known length, for the threads that fill a device's queue.

    A bad image doesn't end it: MindSpore insists on the number of rows, and an exception would make
    it throw away the good batches that wait in its queues. Filler rows follow instead, and
    ``check`` raises the error in the thread that trains.

    Args:
        items: see :class:`SampleStream`.
        read: see :class:`SampleStream`.
        workers: see :class:`SampleStream`.
        length: rows in all.
        filler: makes a row without an image.
    """

    def __init__(
        self,
        items: Callable[[], Iterable],
        read: Callable[[Any], tuple],
        workers: int,
        *,
        length: int,
        filler: Callable[[], tuple],
    ) -> None:
        super().__init__(items, read, workers)
        self._length, self._filler = length, filler
        self._failed_at = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple]:
        count = 0
        for row in super().__iter__():
            yield row
            count += 1
        if count < self._length:
            self._failed_at = count
            row = self._filler()
            for _ in range(count, self._length):
                yield row

    def check(self, row: int) -> None:
        """Raise the error that ended the images, if it did at this row (from 0) or before."""
        if row >= self._failed_at and self.error is not None:
            raise self.error


def read_ahead(read: Callable[[Any], Any], items: Iterable, workers: int) -> Iterator:
    """``map(read, items)`` in order, ``workers`` threads ahead of the consumer.

    An error is raised at its item's turn, after everything before it, so that a run always stops
    at the same sample.
    """

    def read_chunk(chunk: list) -> list:
        rows: list = []
        for item in chunk:
            try:
                rows.append(read(item))
            except Exception as error:  # raised when the consumer gets here
                return [*rows, _Failed(error)]
        return rows

    pool = ThreadPoolExecutor(workers, thread_name_prefix="mindcv_ghost_read")
    waiting: deque[Future[list]] = deque()
    try:
        for chunk in _chunks(items):
            waiting.append(pool.submit(read_chunk, chunk))
            if len(waiting) > 2 * workers:
                yield from _unwrap(waiting.popleft().result())
        while waiting:
            yield from _unwrap(waiting.popleft().result())
    finally:
        # No wait: a consumer that stops half-way may hold the interpreter's lock.
        pool.shutdown(wait=False, cancel_futures=True)


class _Failed:
    def __init__(self, error: Exception):
        self.error = error


def _unwrap(rows: list) -> Iterator:
    for row in rows:
        if isinstance(row, _Failed):
            raise row.error
        yield row


def _chunks(items: Iterable) -> Iterator[list]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
