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

__all__ = ["FETCH_AGAIN", "read_idx", "read_records"]

FETCH_AGAIN = "Remove it, and --dataset_download true fetches it again."
"""What to do about a file that isn't what it should be: a download replaces no file."""

_LARGEST = 1_000_000_000  # bytes that a file may unpack to; MNIST's largest has 47 MB
_CONTENT = {1: "labels", 3: "images"}


def read_records(path: str, size: int, count: int) -> np.ndarray:
    """Read a file of records of equal size: uint8 (N, size).

    Args:
        path: the file.
        size: bytes of a record, which is an image with its label.
        count: records that the file has to have. It has no header, so that nothing else would tell
            that it was cut between two records.

    Raises:
        DataError: if it can't be read, or hasn't exactly these records.
    """
    content, _ = _content(path)
    if len(content) != count * size:
        whole, rest = divmod(len(content), size)
        images = f"{whole:,} image{'' if whole == 1 else 's'}"
        raise DataError(
            f"{printable(path)} has {images}{' and a part of another' if rest else ''} "
            f"({len(content):,} bytes), and should have {count:,} ({count * size:,} bytes). "
            f"{_remedy(whole < count)}"
        )
    return content.reshape(count, size)


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
    content, unpacked = _content(path)
    name, what, header = printable(path), _CONTENT[dimensions], 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    start = content[:header].tobytes()
    if start[:4] != magic[: len(start)]:
        raise DataError(
            f"{name} isn't an IDX file of {what} (MNIST's format): it starts with "
            f"{start[:4].hex()}, legal is {magic.hex()}. {_remedy(False)}"
        )
    size = f"{len(content):,} bytes{unpacked}"
    if len(start) < header:
        raise DataError(
            f"{name} has {size}, fewer than the {header} of an IDX file's header for {what}. "
            f"{_remedy(True)}"
        )
    shape = struct.unpack(f">{dimensions}I", start[4:])
    told = " x ".join(map(str, shape))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{name} has {size}, and should have {expected:,} for the {told} {what} that its "
            f"header tells of. {_remedy(len(content) < expected)}"
        )
    if not shape[0]:
        raise DataError(f"{name} has no {what}: its header tells of {told}. {_remedy(False)}")
    return content[header:].reshape(shape)


def _remedy(is_short: bool) -> str:
    """Return the end of a message about a file that isn't what it should be."""
    question = "Is it truncated?" if is_short else "Is it another file under this name?"
    return f"{question} {FETCH_AGAIN}"


def _content(path: str) -> tuple[np.ndarray, str]:
    """Map a file, or unpack it if it is packed with gzip.

    Returns:
        uint8 (bytes,), and " unpacked" where the file itself has another size.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise DataError(
            f"{printable(path)} can't be read: {error.strerror or error}. Check its permissions."
        ) from None
    if start == b"\x1f\x8b":
        try:
            return np.frombuffer(gunzipped(path, largest=_LARGEST), np.uint8), " unpacked"
        except DataError as error:
            raise DataError(f"{error}. {_remedy(True)}") from None
    return (np.memmap(path, np.uint8, "r") if start else np.zeros(0, np.uint8)), ""
