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
) -> list[np.ndarray]:
    """Run one operator on numpy arrays.

    Args:
        library: as ``ctypes`` loaded it.
        operator: its name, ``ghost_tail`` for instance; ``cpp/entry.cc`` tells what each takes.
        inputs: arrays, of which float32 copies are made.
        shapes: of the outputs.
        written: how many of the last inputs the operator changes where they lie.

    Returns:
        The outputs, filled with NaN before the operator ran, and the changed inputs.

    Raises:
        ValueError: if the operator says that these arguments don't fit.
    """
    outputs = [np.full(shape, np.nan, np.float32) for shape in shapes]
    arrays = [np.array(array, np.float32, order="C") for array in inputs] + outputs
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
