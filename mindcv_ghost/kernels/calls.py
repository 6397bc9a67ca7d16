"""Calling an operator of the library without MindSpore, as MindSpore would."""

from __future__ import annotations

import ctypes
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
    behind: int = 0,
) -> list[np.ndarray]:
    """Run one operator on numpy arrays.

    Args:
        library: as ``ctypes`` loaded it.
        operator: its name, ``ghost_tail`` for instance; ``cpp/entry.cc`` tells what each takes.
        inputs: arrays, of which float32 copies are made.
        shapes: of the outputs.
        written: how many of the last inputs the operator changes where they lie.
        behind: how many floats each array begins behind the start of a cache line.

    Returns:
        The outputs, filled with NaN before the operator ran, and the changed inputs.

    Raises:
        ValueError: if the operator says that these arguments don't fit.
    """
    outputs = [_placed(np.full(shape, np.nan), behind) for shape in shapes]
    arrays = [_placed(np.asarray(array), behind) for array in inputs] + outputs
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


def _placed(values: np.ndarray, behind: int) -> np.ndarray:
    """A float32 copy that begins so many floats behind the start of a cache line."""
    memory = np.empty(values.size + 16 + behind, np.float32)
    first = -(memory.ctypes.data // 4) % 16 + behind
    copy = memory[first : first + values.size].reshape(values.shape)
    copy[...] = values
    return copy
