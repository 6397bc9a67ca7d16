"""Write a file so that a reader sees the old one or the new one, never a half.

Why the new one is whole when its name appears: it is written under another name in the same folder,
flushed to the disk, and only then renamed, which POSIX makes one step; flushing the folder
afterwards makes the name itself outlive a power cut. Whatever goes wrong before the rename leaves
the old file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["give_name", "remove_leftovers", "replacing", "write_bytes", "write_text"]

_PIECE_BYTES = 1 << 22
# What a file system answers that can't flush a folder; the rename stands all the same. Any other
# answer (a full disk, a quota, a lost server) means that the data isn't safe.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, suffix: str = ".tmp") -> Iterator[Path]:
    """Give a name to write to; at the end that file becomes ``path``, as a whole or not at all.

    Args:
        path: the file to replace, in a folder that exists: a run folder that vanished with its
            mount must not be made anew on the disk beneath.
        suffix: how the temporary name ends, for writers who insist.

    Raises:
        OSError: if the disk doesn't take it; an existing ``path`` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        # Writers make files for the owner alone; this one is as readable as any other new file.
        os.chmod(temporary, 0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replace ``path`` by ``data``.

    Args:
        path: the file; its folder must exist.
        data: the whole new content.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path) as temporary, open(temporary, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[_write(file, view[:_PIECE_BYTES]) :]


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; its folder is created. Otherwise as write_bytes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8"))


def give_name(source: Path, target: Path) -> None:
    """Give a file a second name: a hard link, or a copy where the file system has none."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers left behind who were killed; nobody else may be writing there."""
    for leftover in folder.glob(".*.tmp*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _write(file, piece: memoryview) -> int:
    """Write one piece; tests slow it down to kill a run in the middle of a save."""
    return file.write(piece)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
