"""How the cells of a training or an evaluation are compiled."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
from mindspore import nn

__all__ = ["Compile", "compile_uncached"]

Compile = Callable[..., bool]
"""``compile(cell, *inputs)`` compiles a cell; returns whether its graph came from a cache."""


def compile_uncached(cell: nn.Cell, *inputs: ms.Tensor) -> bool:
    """Compile a cell without a cache; always returns False."""
    cell.compile(*inputs)
    return False
