"""Several files that appear together in a folder once all of them are whole, or not at all.

They are written to a hidden folder inside it, and renamed at the end. If anything fails before, or
the process is interrupted or told to end, the hidden folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from mindcv_ghost.storage.atomic_file import move_into_place

__all__ = ["folder_problem", "staged"]

_PREFIX = ".export-"


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder to write to; at the end its files replace those of ``folder``.

    Args:
        folder: created if needed.

    Raises:
        OSError: if the disk rejects the data.
    """
    created = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        with _ends_at_sigterm():
            yield hidden
        for path in sorted(hidden.iterdir()):
            move_into_place(path, folder / path.name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        for part in created:
            with contextlib.suppress(OSError):
                part.rmdir()  # only if it is empty: nothing was written


def folder_problem(folder: Path) -> str:
    """Say why a folder can't be written to, as half a sentence; "" if it can, or can be created."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"{nearest} isn't a folder"
    try:
        os.rmdir(tempfile.mkdtemp(prefix=_PREFIX, dir=nearest))
    except OSError as error:
        return f"{nearest} can't be written to ({error.strerror})"
    return ""


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
