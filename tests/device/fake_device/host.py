"""Where MindSpore is asked about the CPU that really computes, and not about the device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["is_on_host", "on_host"]

_thread = threading.local()


@contextmanager
def on_host() -> Iterator[None]:
    """While inside, this thread's MindSpore says that its device is the CPU."""
    before = is_on_host()
    _thread.inside = True
    try:
        yield
    finally:
        _thread.inside = before


def is_on_host() -> bool:
    return getattr(_thread, "inside", False)
