"""Unpack untrusted archives: only the wanted members, in bounded time and memory.

No name in an archive ever becomes a path: the caller says which members it wants, and writes them
under names of its own. So ``../``, absolute names, links and devices do nothing, whatever Python's
``tarfile`` does with them (its ``filter="data"`` isn't in every 3.9 to 3.11).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator, Mapping

from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError

__all__ = ["MAX_MEMBERS", "file_members", "gunzip", "gunzipped"]

MAX_MEMBERS = 10_000  # CIFAR's archives and ImageNet's devkit have 9 to 30
_CHUNK = 2**20
_BROKEN = (
    *(OSError, EOFError, ValueError, OverflowError),
    *(tarfile.TarError, zlib.error, lzma.LZMAError),
)


class _TooLarge(Exception):
    """The archive unpacks to more than was allowed."""


class _Bounded(io.RawIOBase):
    """A stream that raises :class:`_TooLarge` after so many bytes: archives can be bombs."""

    def __init__(self, stream: io.BufferedIOBase, largest: int) -> None:
        self._stream, self._left, self._largest = stream, largest, largest

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            size = self._left + 1
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _TooLarge(f"unpacks to more than {self._largest:,} bytes")
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()


def file_members(
    path: str | os.PathLike, wanted: Mapping[str, int], *, largest: int
) -> Iterator[tuple[str, bytes]]:
    """Read the wanted members of a tar archive (plain, gzip, bzip2, xz), in the archive's order.

    Args:
        path: the archive.
        wanted: last part of a member's name -> largest size in bytes. If several members have the
            same name, the first regular file is read.
        largest: bytes that the whole archive may unpack to.

    Yields:
        The name as in ``wanted``, and the content.

    Raises:
        DataError: if it isn't an archive, is damaged, or is larger than allowed.
    """
    found: set[str] = set()
    try:
        # Read as a stream, so that skipped members count, too; so do long headers.
        with _opened(path, largest) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise _TooLarge(f"has more than {MAX_MEMBERS:,} members")
                name = member.name.rpartition("/")[2]
                if name not in wanted or name in found or not member.isreg():
                    continue
                if member.size > wanted[name]:
                    raise _TooLarge(f"has {name} with {member.size:,} bytes")
                found.add(name)
                opened = archive.extractfile(member)
                content = opened.read() if opened is not None else b""
                if len(content) != member.size:
                    raise EOFError(f"{name} is cut off")
                yield name, content
                if len(found) == len(wanted):
                    return
    except _TooLarge as problem:
        raise DataError(f"{printable(path)} {problem}: it isn't the expected file") from None
    except _BROKEN as error:
        raise DataError(
            f"{printable(path)} can't be unpacked: {error or type(error).__name__}"
        ) from None


def gunzip(path: str | os.PathLike, target: str | os.PathLike, *, largest: int) -> None:
    """Decompress a gzip file.

    Args:
        path: the compressed file.
        target: what to write.
        largest: bytes that it may unpack to.

    Raises:
        DataError: if it is damaged or larger than allowed.
    """
    with open(target, "wb") as file:
        for chunk in _chunks(path, largest):
            file.write(chunk)


def gunzipped(path: str | os.PathLike, *, largest: int) -> bytearray:
    """Decompress a gzip file into memory; arguments and errors are those of :func:`gunzip`."""
    content = bytearray()
    for chunk in _chunks(path, largest):
        content += chunk
    return content


def _chunks(path: str | os.PathLike, largest: int) -> Iterator[bytes]:
    try:
        with _opened(path, largest) as stream:
            yield from iter(lambda: stream.read(_CHUNK), b"")
    except _TooLarge as problem:
        raise DataError(f"{printable(path)} {problem}: it isn't the expected file") from None
    except _BROKEN as error:
        raise DataError(
            f"{printable(path)} can't be unpacked: {error or type(error).__name__}"
        ) from None


def _opened(path: str | os.PathLike, largest: int) -> _Bounded:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # never blocks on a pipe
    file = open(descriptor, "rb")  # noqa: SIM115 (the stream that is returned closes it)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError("not a regular file")
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return _Bounded(gzip.GzipFile(fileobj=file), largest)
    if start.startswith(b"BZh"):
        return _Bounded(bz2.BZ2File(file), largest)
    if start == b"\xfd7zXZ\0":
        return _Bounded(lzma.LZMAFile(file), largest)
    return _Bounded(file, largest)
