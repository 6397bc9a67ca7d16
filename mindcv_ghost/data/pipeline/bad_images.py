"""What takes the place of an image that can't be read."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image

from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.errors import DataError, first_line

__all__ = ["black_image", "first_readable"]

_MAX_SKIPPED = 1000  # bad images in a row after which skipping ends with an error
_T = TypeVar("_T")


def first_readable(
    read: Callable[[int], _T], indices: np.ndarray, position: int, *, skip: bool
) -> _T:
    """Read the image at a position of an epoch, or the next readable one if bad ones are skipped.

    Args:
        read: reads the image of an index; raises DataError if it is bad.
        indices: one rank's indices of the epoch, in order; the search wraps around at the end.
        position: in ``indices``.
        skip: whether bad images are skipped (``on_bad_image``).

    Returns:
        What ``read`` returned.

    Raises:
        DataError: for a bad image if ``skip`` is False, or if a thousand in a row are bad.
    """
    tries = min(len(indices), _MAX_SKIPPED) if skip else 1
    for k in range(tries):
        try:
            return read(int(indices[(position + k) % len(indices)]))
        except DataError as error:
            if not skip:
                raise
            last = first_line(error)
    raise DataError(f"{tries:,} images in a row can't be read, the last of them: {last}")


def black_image(source: Source) -> np.ndarray:
    """Make a black image in the form that the source gives: encoded bytes or pixels."""
    if not source.encoded:
        return np.zeros_like(source[0][0])
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "BMP")
    return np.frombuffer(out.getvalue(), np.uint8)
