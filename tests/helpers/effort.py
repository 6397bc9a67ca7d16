"""How much work something is, counted; a clock would tell how busy the machine is."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import Any, Callable


def calls_of(function: Callable[[], Any]) -> int:
    """Call ``function`` and count the calls, of Python's functions and C's, that it makes."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@contextlib.contextmanager
def no_hang(seconds: int = 60):
    """Fail what would wait for ever, as opening a pipe does; a busy machine gets there in time."""

    def fail(*_):
        raise AssertionError(f"no end in {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
