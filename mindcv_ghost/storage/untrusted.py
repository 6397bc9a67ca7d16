"""What the parsers of checkpoints share: their limits, their error, and the checks of one array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["MAX_DIMENSIONS", "MAX_ENTRIES", "MAX_NAME_BYTES", "UnreadableFile", "array_of"]

MAX_ENTRIES = 100_000  # ResNet-152 has 777 parameters and statistics, HRNet-W48 1,627
MAX_DIMENSIONS = 8  # MindSpore's own operators take no more
MAX_NAME_BYTES = 1000

_BFLOAT16 = ("BFloat16", "BF16")


class UnreadableFile(Exception):
    """These bytes are no valid checkpoint; the message says why."""


def array_of(
    name: str, kind: str, dtype: np.dtype, dims: Sequence[int], content: bytes | memoryview
) -> np.ndarray:
    """Build an array, if there are exactly as many bytes as its shape says.

    Args:
        name: of the array, for messages.
        kind: the type's name in the file, for messages; bfloat16 is converted to float32, which has
            all of its values, because NumPy has no such type.
        dtype: how NumPy reads the bytes; ``<u2`` for bfloat16.
        dims: the shape.
        content: the bytes, in C order.

    Returns:
        A read-only array, which shares memory with ``content`` (except bfloat16).

    Raises:
        UnreadableFile: if the shape is illegal or empty, or the bytes don't fit it.
    """
    if len(dims) > MAX_DIMENSIONS:
        raise UnreadableFile(f"{name!r} has more than {MAX_DIMENSIONS} dimensions")
    if any(not 0 <= dim < 2**31 for dim in dims):
        raise UnreadableFile(f"{name!r} has the shape {list(dims)}")
    needed, held = math.prod(dims) * dtype.itemsize, len(content)
    if held != needed:
        raise UnreadableFile(
            f"it is damaged: {name!r} of {kind} {list(dims)} needs {needed:,} bytes and has "
            f"{held:,}"
        )
    if not held:
        raise UnreadableFile(f"{name!r} of shape {list(dims)} holds nothing")
    array = np.frombuffer(content, dtype)
    if dtype.kind == "b" and np.frombuffer(content, np.uint8).max() > 1:
        raise UnreadableFile(f"it is damaged: {name!r} of {kind} holds other bytes than 0 and 1")
    if kind in _BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    array = array.reshape(tuple(dims))
    array.flags.writeable = False
    return array
