"""Replace a file atomically: a reader sees the old content or the new one, never a part of it.

The new content is written under a temporary name in the same folder, flushed to the disk, and then
renamed, which POSIX guarantees to be one step. Flushing the folder afterwards makes the rename
survive a power cut. If anything fails before the rename, the old file is unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "copy_file",
    "flush",
    "link_or_copy",
    "move_into_place",
    "remove_temporary_files",
    "replacing",
    "write_bytes",
    "write_text",
]

_CHUNK_BYTES = 1 << 22
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp(?:\.\w+)?")  # as replacing() calls them
# Errors of file systems that can't flush a folder; the rename is valid nevertheless. Any other
# error (a full disk, a quota, a lost server) means that the data isn't safe.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, suffix: str = ".tmp") -> Iterator[Path]:
    """Yield a temporary path to write to; at the end it atomically replaces ``path``.

    Args:
        path: the file to replace. Its folder must exist: a run folder that vanished with its
            mount must not be recreated on the disk beneath.
        suffix: end of the temporary name, for writers that demand a certain suffix.

    Raises:
        OSError: if the disk rejects the data; an existing ``path`` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        move_into_place(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def move_into_place(source: Path, target: Path) -> None:
    """Give a file its final name, flushed to the disk, and the usual permissions.

    Args:
        source: whole, and on the same disk. A folder of files is moved as well, after an older one
            of the name is removed; that isn't one step.
        target: is replaced.
    """
    flush(source)
    if source.is_dir() and target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)
    _flush_folder(target.parent)


def flush(path: Path) -> None:
    """Give a file, or all of a folder, the usual permissions, and flush it to the disk."""
    for part in (path, *path.rglob("*")):
        # Some writers create files for the owner alone.
        os.chmod(part, (0o777 if part.is_dir() else 0o666) & ~_umask())
        _flush(part)


def write_bytes(path: str | os.PathLike, data: bytes | bytearray) -> None:
    """Replace the content of ``path`` atomically.

    Args:
        path: the file; its folder must exist.
        data: the whole new content.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path) as temporary, open(temporary, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[_write(file, view[:_CHUNK_BYTES]) :]


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace the content of ``path`` by ``text`` in UTF-8; its folder is created if needed.

    Args:
        path: the file.
        text: the whole new content.

    Raises:
        OSError: as :func:`replacing`.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """Replace a file by a copy of another one.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name: a hard link, or a copy where the file system has no links.

    It gets the permissions of a new file under both names.

    Raises:
        OSError: as :func:`replacing`.
    """
    if target.exists() and os.path.samefile(source, target):
        return  # a rename of one name to another of the same file would leave both
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def remove_temporary_files(folder: Path, names: str) -> None:
    """Remove the temporary files of killed writers; nobody else may be writing these files.

    Args:
        folder: where they are.
        names: regular expression for the names of the files that were to be replaced.
    """
    for leftover in folder.iterdir():
        found = _TEMPORARY.fullmatch(leftover.name)
        if found and re.fullmatch(names, found[1]):
            with contextlib.suppress(OSError):
                leftover.unlink()


def _write(file: BinaryIO, chunk: memoryview) -> int:
    """Write one chunk; tests slow this down to kill a run in the middle of a save."""
    return file.write(chunk)


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
