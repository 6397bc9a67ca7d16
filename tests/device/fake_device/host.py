"""Marks code that must see the CPU, which really computes, instead of the fake device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["is_on_host", "on_host"]

_thread = threading.local()


@contextmanager
def on_host() -> Iterator[None]:
    """Within the block, MindSpore reports the CPU as this thread's device."""
    before = is_on_host()
    _thread.inside = True
    try:
        yield
    finally:
        _thread.inside = before


def is_on_host() -> bool:
    return getattr(_thread, "inside", False)
