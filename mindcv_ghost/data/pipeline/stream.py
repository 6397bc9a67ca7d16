"""Samples in a given order, read ahead by threads, with bad images dealt with.

MindSpore's ``GeneratorDataset`` pulls from here. Why not its ``ImageFolderDataset``: that one lists
the folder again, shuffles by a generator of its own, and shows no file to us before its decoder
has it. What that costs is measured by ``benchmarks/data_loading.py``.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.errors import DataError

__all__ = ["SampleStream", "SizedStream", "blank_image", "read_ahead", "read_or_replace"]

_CHUNK = 8  # samples a task: a task of one costs 30 us of hand-over
_PATIENCE = 1000  # bad images in a row after which skipping is giving up on the whole set


class SampleStream:
    """One rank's rows, ended early by a bad image, which the source then has as ``failure``.

    It ends in silence: an exception would make MindSpore drop the batches it has ready and raise
    a RuntimeError of thirty lines. So the consumer gets everything before the bad image, the same
    in each run, and then asks the source.

    Args:
        source: gets the DataError that ended the stream.
        items: gives a fresh iterator over what ``read`` is to be called with.
        read: turns an item into a row (a tuple of arrays); may raise DataError.
        workers: threads that read ahead.
    """

    def __init__(
        self,
        source: Source,
        items: Callable[[], Iterable],
        read: Callable[..., tuple],
        workers: int,
    ):
        self._source, self._items, self._read, self._workers = source, items, read, workers

    def __iter__(self) -> Iterator[tuple]:
        try:
            yield from read_ahead(self._read, self._items(), self._workers)
        except DataError as error:
            self._source.failure = error

    # No __len__: MindSpore would insist on so many rows.

    def __deepcopy__(self, memo: dict) -> SampleStream:
        return self  # MindSpore copies a pipeline for each iterator; the source may be large


class SizedStream(SampleStream):
    """A stream of known length, for the threads that fill a device's queue.

    A bad image doesn't end it: MindSpore insists on so many rows, and an exception would make it
    throw away the good batches that are waiting in its queues. From there on rows are ``blank``,
    and ``check`` tells the thread that trains.

    Args:
        length: rows in all.
        blank: a row without an image.
    """

    def __init__(self, *args, length: int, blank: Callable[[], tuple]):
        super().__init__(*args)
        self._length, self._blank = length, blank
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
            row = self._blank()
            for _ in range(count, self._length):
                yield row

    def check(self, row: int) -> None:
        """Raise what ended the images, if it did at this row (counted from 0) or before."""
        if row >= self._failed_at:
            raise self._source.failure


def read_or_replace(source: Source, indices: np.ndarray, place: int) -> tuple[np.ndarray, int]:
    """The image at a place of an epoch, or the next good one after it if bad ones are skipped.

    Args:
        indices: one rank's indices of the epoch, in order; the search wraps around their end.

    Raises:
        DataError: for a bad image under "stop", or if a thousand in a row are bad.
    """
    tries = min(len(indices), _PATIENCE) if source.on_bad_image == "skip" else 1
    for k in range(tries):
        try:
            return source[int(indices[(place + k) % len(indices)])]
        except DataError as error:
            problem = error
    if source.on_bad_image == "skip":
        last = str(problem).splitlines()[0]
        raise DataError(f"{tries:,} images in a row can't be read, the last of them: {last}")
    raise problem


def blank_image(source: Source) -> np.ndarray:
    """What stands in for an image that isn't there: black, in the form the source gives."""
    if not source.encoded:
        return np.zeros_like(source[0][0])
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "BMP")
    return np.frombuffer(out.getvalue(), np.uint8)


def read_ahead(read: Callable, items: Iterable, workers: int) -> Iterator:
    """``map(read, items)`` in order, ``workers`` threads ahead of the consumer.

    An error comes up at its item's place, after everything before it, so that a run that stops
    always stops at the same sample.
    """

    def read_chunk(chunk: list) -> list:
        rows = []
        for item in chunk:
            try:
                rows.append(read(item))
            except Exception as error:  # raised where the consumer gets there
                return rows + [_Raised(error)]
        return rows

    pool = ThreadPoolExecutor(workers, thread_name_prefix="mindcv_ghost_read")
    waiting: deque = deque()
    try:
        for chunk in _chunks(items):
            waiting.append(pool.submit(read_chunk, chunk))
            if len(waiting) > 2 * workers:
                yield from _unwrap(waiting.popleft().result())
        while waiting:
            yield from _unwrap(waiting.popleft().result())
    finally:
        # Not waiting: whoever drops a pipeline in the middle may hold the interpreter's lock.
        pool.shutdown(wait=False, cancel_futures=True)


class _Raised:
    def __init__(self, error: Exception):
        self.error = error


def _unwrap(rows: list) -> Iterator:
    for row in rows:
        if isinstance(row, _Raised):
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
