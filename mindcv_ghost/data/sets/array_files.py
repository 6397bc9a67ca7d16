"""The files of CIFAR and MNIST: IDX files, packed with gzip or not, and CIFAR's records.

An unpacked file is mapped into memory instead of read by MindSpore's ``Cifar10Dataset`` and
``MnistDataset`` (a test compares the results): nothing is copied at the start, the ranks of a
machine share the pages, and an error names the file. A packed one is unpacked into memory, 47 MB
and 0.3 s for the largest.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.data.sets.unpack import gunzipped
from mindcv_ghost.errors import DataError

__all__ = ["read_idx", "read_records"]

_LARGEST = 1_000_000_000  # bytes that a file may unpack to; MNIST's largest has 47 MB
_CONTENT = {1: "labels", 3: "images"}


def read_records(path: str, size: int) -> np.ndarray:
    """Read a file of records of equal size: uint8 (N, size).

    Raises:
        DataError: if it can't be read, is empty or isn't a number of whole records.
    """
    content = _content(path)
    if not len(content) or len(content) % size:
        raise DataError(
            f"{printable(path)} has {len(content):,} bytes, not a multiple of its records' {size:,}"
            " bytes: truncated? Fetch it again."
        )
    return content.reshape(-1, size)


def read_idx(path: str, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes (MNIST's format).

    Args:
        path: the file, packed with gzip or not, whatever its name.
        dimensions: 1 for labels, 3 for images.

    Returns:
        uint8 of the shape in its header.

    Raises:
        DataError: if it can't be read or isn't such a file, whole.
    """
    content, header = _content(path), 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    start = content[:header].tobytes()
    if len(start) < header or start[:4] != magic:
        raise DataError(
            f"{printable(path)} isn't an IDX file of {dimensions}-dimensional bytes (MNIST's "
            f"format): it starts with {start[:4].hex() or 'nothing'}, legal for "
            f"{_CONTENT[dimensions]} is {magic.hex()}. Is it another file under this name? Fetch "
            "it again."
        )
    shape = struct.unpack(f">{dimensions}I", start[4:])
    expected = header + math.prod(shape)
    if len(content) != expected or not shape[0]:
        raise DataError(
            f"{printable(path)} has {len(content):,} bytes, but its header says {expected:,} for "
            f"{' x '.join(map(str, shape))}: truncated? Fetch it again."
        )
    return content[header:].reshape(shape)


def _content(path: str) -> np.ndarray:
    """Map a file, or unpack it if it is packed with gzip: uint8 (bytes,)."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise DataError(
            f"{printable(path)} can't be read: {error.strerror or error}. Check its permissions."
        ) from None
    if start == b"\x1f\x8b":
        try:
            return np.frombuffer(gunzipped(path, largest=_LARGEST), np.uint8)
        except DataError as error:
            raise DataError(f"{error}. Is it truncated? Fetch it again.") from None
    return np.memmap(path, np.uint8, "r") if start else np.zeros(0, np.uint8)
