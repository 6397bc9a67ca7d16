"""Several files that appear together in a folder once all of them are whole, or not at all.

They are written to a hidden folder inside it, flushed, and renamed at the end. If anything fails
before, or the process is interrupted or told to end, the hidden folder is removed.

A folder that has to be new is claimed by the hidden folder: its name is fixed, and of two processes
only one can create it. That holds on network file systems without locks, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from mindcv_ghost.storage.atomic_file import flush, move_into_place

__all__ = ["folder_problem", "is_claimed", "staged"]

_PREFIX = ".export-"
_CLAIM = ".export-new"


@contextlib.contextmanager
def staged(folder: Path, new: bool = False) -> Iterator[Path]:
    """Yield a hidden folder to write to; at the end its files replace those of ``folder``.

    Args:
        folder: created if needed.
        new: ``folder`` has to be empty, and no other process may be staging files for it.

    Raises:
        FileExistsError: if ``folder`` isn't ``new``; nothing was yielded. Or if somebody else has
            put a file of one of the names into it in the meantime.
        OSError: if the disk rejects the data.
    """
    created = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = _claim(folder) if new else Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        try:
            if new and any(not path.name.startswith(_PREFIX) for path in folder.iterdir()):
                raise FileExistsError(errno.EEXIST, "it isn't empty", str(folder))
            with _ends_at_sigterm():
                yield hidden
                paths = sorted(hidden.iterdir())
                _check_that_all_can_be_moved(paths, folder, new)
                with _taken_back(if_it_fails=new) as moved:
                    for path in paths:
                        moved.append(folder / path.name)
                        move_into_place(path, moved[-1])
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    finally:
        for part in created:
            with contextlib.suppress(OSError):
                part.rmdir()  # only if it is empty: nothing was written


def _check_that_all_can_be_moved(paths: Sequence[Path], folder: Path, new: bool) -> None:
    """Flush all files, and compare kinds: what is left to do are renames, which need no space."""
    for path in paths:
        flush(path)
        target = folder / path.name
        if new and os.path.lexists(target):  # somebody put it there in the meantime
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        if target.exists() and target.is_dir() != path.is_dir():
            code = errno.EISDIR if target.is_dir() else errno.ENOTDIR
            raise OSError(code, os.strerror(code), str(target))


def is_claimed(folder: Path) -> bool:
    """Say whether a process is staging files for a new folder, or was killed while it did."""
    return (folder / _CLAIM).exists()


def folder_problem(folder: Path) -> str:
    """Say why a folder can't be written to, as half a sentence; "" if it can, or can be created."""
    nearest = folder
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            return f"{nearest} isn't a folder"
        os.rmdir(tempfile.mkdtemp(prefix=_PREFIX, dir=nearest))
    except OSError as error:
        return f"{nearest} can't be written to ({error.strerror})"
    return ""


def _claim(folder: Path) -> Path:
    hidden = folder / _CLAIM
    hidden.mkdir(0o700)  # one step: it fails if another process was first
    return hidden


@contextlib.contextmanager
def _taken_back(*, if_it_fails: bool) -> Iterator[list[Path]]:
    """Yield a list for the files that are moved to a folder; if not all can be, remove these.

    Files that somebody else has put into the folder in the meantime stay.
    """
    moved: list[Path] = []
    try:
        yield moved
    except BaseException:
        for path in moved if if_it_fails else ():
            path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _ends_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process by an exception, which removes the files."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
