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
) -> list[np.ndarray]:
    """Run one operator on numpy arrays.

    Args:
        library: as ``ctypes`` loaded it.
        operator: its name, ``ghost_tail`` for instance; ``cpp/entry.cc`` tells what each takes.
        inputs: arrays, made float32.
        shapes: of the outputs.

    Returns:
        The outputs, filled with NaN before the operator ran.

    Raises:
        ValueError: if the operator says that these arguments don't fit.
    """
    outputs = [np.full(shape, np.nan, np.float32) for shape in shapes]
    arrays = [np.ascontiguousarray(array, np.float32) for array in inputs] + outputs
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
    return outputs
