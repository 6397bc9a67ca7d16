"""Loading MindSpore and MindCV without looking for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["loading"]


@contextmanager
def loading() -> Iterator[None]:
    """Look for no garbage in the block, and never again among what it has loaded.

    170,000 objects come with MindSpore and MindCV, and stay. Python would go through them time and
    again while they come, and MindSpore does so before each graph that it compiles: 0.2 to 0.5 s of
    the 4 up to a second start's first step.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
