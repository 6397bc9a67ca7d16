"""A folder in the temporary one that lasts as long as the process, however that ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none, and there nothing is swept
    fcntl = None

__all__ = ["scratch_folder"]


def scratch_folder(prefix: str) -> Path:
    """Make a folder that is removed when the process ends, or else when the next one makes its own.

    A killed process removes nothing. Each therefore holds a lock on its folder, which ends with
    it, and removes the folders of this prefix that nobody holds.

    Args:
        prefix: what the folder's name begins with.
    """
    if fcntl is None:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    else:
        with contextlib.suppress(OSError):
            _sweep(Path(tempfile.gettempdir()), prefix)
        folder = _held(prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _held(prefix: str) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            handle = os.open(folder, os.O_RDONLY)  # never closed: the lock is the process's
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process's sweep may have come between the two lines above.
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return folder
        except FileNotFoundError:
            continue
        except OSError:  # a file system without locks: nobody sweeps there, either
            return folder


def _sweep(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or one that another sweep removes
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
