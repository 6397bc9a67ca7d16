"""A temporary folder that is removed after its process has ended, even if that was killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["scratch_folder"]


def scratch_folder(prefix: str) -> Path:
    """Create a temporary folder, and remove those that killed processes left behind.

    The folder is removed when the process exits. A killed process can't do that. Each process
    therefore holds a lock on its folder, which ends with the process, and removes the folders with
    the same prefix that nobody has locked. On Windows there are no such locks, and folders of
    killed processes stay.

    Args:
        prefix: of the folder's name.
    """
    if sys.platform == "win32":
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    else:
        with contextlib.suppress(OSError):
            _remove_unlocked(Path(tempfile.gettempdir()), prefix)
        folder = _locked_folder(prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _locked_folder(prefix: str) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            handle = os.open(folder, os.O_RDONLY)  # stays open, to hold the lock
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process may have removed the folder between the two lines above.
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return folder
        except FileNotFoundError:
            continue
        except OSError:  # a file system without locks: nobody removes the folder there, either
            return folder


def _remove_unlocked(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # locked, another user's, or just being removed
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
