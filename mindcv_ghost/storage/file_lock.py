"""Locks that processes of one or several machines wait for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[bool]:
    """Wait until no other process holds the lock of a file, and hold it.

    Args:
        path: of the file; it is created and stays.

    Yields:
        Whether the lock is held. It isn't where there are none: on Windows and on some network
        file systems (NFS without its lock daemon, Lustre with ``noflock``).

    Raises:
        OSError: if the file can't be opened for writing.
    """
    with open(path, "a") as lock:
        yield _is_locked(lock.fileno())


def _is_locked(file: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
