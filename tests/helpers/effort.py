"""Measure work by counting calls, because time depends on how busy the machine is."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import Any, Callable


def calls_of(function: Callable[[], Any]) -> int:
    """Return how many calls of Python and C functions a call of ``function`` makes."""
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
    """Fail a block that doesn't end, such as one that opens a pipe without a writer."""

    def fail(*_):
        raise AssertionError(f"no end in {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # of the test's own limit
    began = time.monotonic()
    try:
        yield
    finally:
        rest = max(left - (time.monotonic() - began), 0.1) if left else 0
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, rest)
