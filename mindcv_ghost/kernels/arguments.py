"""The arguments of an operator in C++, as ``cpp/arguments.h`` reads them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Arguments"]

_SIDES = ctypes.POINTER(ctypes.c_int64)


@dataclass(frozen=True)
class Arguments:
    """Inputs, then outputs, all float32; what they hold is at addresses that each call gives.

    Args:
        count: of them.
        ranks: numbers of dimensions.
        sides: pointers to the shapes.
        types: names of the types.
        kept: what ``sides`` points to.
    """

    count: int
    ranks: Any
    sides: Any
    types: Any
    kept: list[Any]

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, ...]]) -> Arguments:
        """Describe arguments of these shapes."""
        count = len(shapes)
        kept = [(ctypes.c_int64 * max(1, len(shape)))(*shape) for shape in shapes]
        return cls(
            count,
            (ctypes.c_int * count)(*map(len, shapes)),
            (_SIDES * count)(*(ctypes.cast(sides, _SIDES) for sides in kept)),
            (ctypes.c_char_p * count)(*([b"float32"] * count)),
            kept,
        )

    def pointers(self, addresses: Sequence[int | None]) -> Any:
        """Return an array of these addresses for :meth:`call`."""
        return (ctypes.c_void_p * self.count)(*addresses)

    def call(self, function: Any, pointers: Any) -> bool:
        """Call an operator of a library; return whether it takes such arguments."""
        return function(self.count, pointers, self.ranks, self.sides, self.types, None, None) == 0
