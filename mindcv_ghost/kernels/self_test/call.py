"""Call an operator of the library as MindSpore does, but on numpy arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mindcv_ghost.kernels.arguments import Arguments

__all__ = ["call"]


def call(
    library: ctypes.CDLL,
    operator: str,
    inputs: Sequence[ArrayLike],
    shapes: Sequence[tuple[int, ...]],
    written: int = 0,
    offset: int = 4,
) -> list[np.ndarray]:
    """Run one operator on numpy arrays.

    Args:
        library: as ``ctypes`` loaded it.
        operator: its name, such as ``ghost_tail``; ``cpp/ghost_tail.cc`` says what it takes.
        inputs: arrays, which are copied as float32.
        shapes: of the outputs.
        written: how many of the last inputs the operator writes in place.
        offset: distance in floats from the start of a cache line to each array; MindSpore's
            memory begins 16 bytes after one.

    Returns:
        The outputs, which are NaN before the operator runs, and the written inputs.

    Raises:
        ValueError: if the operator refuses these arguments.
    """
    outputs = [_filled(shape, np.nan, offset) for shape in shapes]
    arrays = [_filled(np.shape(array), array, offset) for array in inputs] + outputs
    arguments = Arguments.of([array.shape for array in arrays])
    pointers = arguments.pointers([array.ctypes.data for array in arrays])
    if not arguments.call(getattr(library, operator), pointers):
        raise ValueError(
            f"{operator} refuses {[a.shape for a in arrays]} (inputs, then outputs): their number "
            "or sizes are wrong, see the comments in cpp/*.cc"
        )
    return outputs + arrays[len(inputs) - written : len(inputs)]


def _filled(shape: tuple[int, ...], values: ArrayLike, offset: int) -> np.ndarray:
    """Return a float32 array that begins ``offset`` floats after the start of a cache line."""
    size = math.prod(shape)
    memory = np.empty(size + 16 + offset, np.float32)
    first = -(memory.ctypes.data // 4) % 16 + offset
    array = memory[first : first + size].reshape(shape)
    array[...] = values
    return array
