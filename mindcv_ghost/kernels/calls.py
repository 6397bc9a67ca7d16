"""Calling an operator of the library without MindSpore, as MindSpore would."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["call"]

_SHAPE = ctypes.POINTER(ctypes.c_int64)


def call(
    library: ctypes.CDLL,
    operator: str,
    inputs: Sequence[np.ndarray],
    shapes: Sequence[tuple[int, ...]],
    written: int = 0,
    behind: int = 4,
) -> list[np.ndarray]:
    """Run one operator on numpy arrays.

    Args:
        library: as ``ctypes`` loaded it.
        operator: its name, ``ghost_tail`` for instance; ``cpp/entry.cc`` tells what each takes.
        inputs: arrays, of which float32 copies are made.
        shapes: of the outputs.
        written: how many of the last inputs the operator changes where they lie.
        behind: how many floats each array begins behind the start of a cache line; MindSpore's
            memory begins 16 bytes behind one.

    Returns:
        The outputs, filled with NaN before the operator ran, and the changed inputs.

    Raises:
        ValueError: if the operator says that these arguments don't fit.
    """
    outputs = [_filled(shape, np.nan, behind) for shape in shapes]
    arrays = [_filled(np.shape(array), array, behind) for array in inputs] + outputs
    count = len(arrays)
    sides = [(ctypes.c_int64 * max(1, a.ndim))(*a.shape) for a in arrays]
    code = getattr(library, operator)(
        ctypes.c_int(count),
        (ctypes.c_void_p * count)(*(a.ctypes.data for a in arrays)),
        (ctypes.c_int * count)(*(a.ndim for a in arrays)),
        (_SHAPE * count)(*(ctypes.cast(side, _SHAPE) for side in sides)),
        (ctypes.c_char_p * count)(*([b"float32"] * count)),
        None,
        None,
    )
    if code != 0:
        raise ValueError(
            f"{operator} refuses {[a.shape for a in arrays]} (inputs, then outputs): number or "
            "sizes aren't what cpp/entry.cc asks for"
        )
    return outputs + arrays[len(inputs) - written : len(inputs)]


def _filled(shape: tuple[int, ...], values: np.ndarray | float, behind: int) -> np.ndarray:
    """Memory of float32 that begins so many floats behind the start of a cache line."""
    size = math.prod(shape)
    memory = np.empty(size + 16 + behind, np.float32)
    first = -(memory.ctypes.data // 4) % 16 + behind
    array = memory[first : first + size].reshape(shape)
    array[...] = values
    return array
