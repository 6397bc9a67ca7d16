"""Processes that a test starts and that mustn't outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator

__all__ = ["kill_all", "killed_if_it_fails"]


@contextlib.contextmanager
def killed_if_it_fails(process: subprocess.Popen) -> Iterator[None]:
    """Kill a process and its children if the block fails, also by pytest's own time limit.

    A launcher alone would leave its ranks behind, to disturb the tests that follow.

    Args:
        process: the first one of a session.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes, of which some may end with others."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
