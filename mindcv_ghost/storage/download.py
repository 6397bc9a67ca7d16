"""Download a file: what was cut off goes on where it stopped, and what arrives has its checksum.

Where files come from, where they go and what a user is told is up to the callers.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from mindcv_ghost.storage.atomic_file import move_into_place
from mindcv_ghost.storage.provenance import digest_of

__all__ = ["DownloadError", "fetch", "fetch_part", "part_of"]

_CHUNK_BYTES = 1 << 16
_TIMEOUT = 60  # seconds without a byte
_TRANSFERS = 20  # of one file, if each brings it further
_logger = logging.getLogger(__name__)


class DownloadError(Exception):
    """A file can't be downloaded. The text is the reason, without the address."""


def fetch(url: str, path: str | os.PathLike, checksum: str, largest: int) -> None:
    """Download a file, unless it is there already.

    The bytes go to :func:`part_of` first. If the process ends before they are complete, the next
    call continues, also from another address of the same file.

    Args:
        url: ``http://`` or ``https://``.
        path: gets the file once it is whole; its folder must exist.
        checksum: of the file, as ``sha256:`` and 64 digits, or ``md5:`` and 32.
        largest: bytes; a longer file is another one.

    Raises:
        DownloadError: if the server can't be reached or refuses, the file doesn't come whole, or it
            isn't the one of this checksum.
        OSError: if it can't be written.
    """
    path = Path(path)
    algorithm, _, wanted = checksum.partition(":")
    if path.is_file() and digest_of(path, algorithm) == wanted.lower():
        return
    move_into_place(fetch_part(url, path, checksum, largest), path)


def fetch_part(url: str, path: str | os.PathLike, checksum: str, largest: int) -> Path:
    """Download a file that isn't to stay: it is whole, but doesn't get its name.

    Args:
        url: as for :func:`fetch`.
        path: as for :func:`fetch`; nothing is written to it.
        checksum: as for :func:`fetch`.
        largest: as for :func:`fetch`.

    Returns:
        Where the file is, :func:`part_of`; the caller removes it.

    Raises:
        DownloadError: as :func:`fetch`.
        OSError: as :func:`fetch`.
    """
    part = part_of(Path(path))
    algorithm, _, wanted = checksum.partition(":")
    _complete(url, part, algorithm, wanted.lower(), largest)
    return part


def part_of(path: Path) -> Path:
    """Return where the bytes of a file that isn't complete yet are."""
    return path.with_name(f".{path.name}.part")


def _complete(url: str, part: Path, algorithm: str, wanted: str, largest: int) -> None:
    """Download into a file, in as many transfers as it takes while each brings more."""
    for _ in range(_TRANSFERS):
        started = _size(part)
        if _transfer(url, part, started, largest):
            found, length = digest_of(part, algorithm), _size(part)
            if found == wanted:
                return
            part.unlink()
            if not started:
                raise DownloadError(
                    f"it is another file: {length:,} bytes with the {algorithm.upper()} sum "
                    f"{found} instead of {wanted}"
                )
            # The beginning may have been another file's: once more, from the start.
        elif _size(part) <= started:
            raise DownloadError(f"nothing more arrived after {_size(part):,} bytes")
    raise DownloadError(f"incomplete after {_TRANSFERS} transfers: {_size(part):,} bytes")


def _transfer(url: str, part: Path, start: int, largest: int) -> bool:
    """Append to a file what follows its first ``start`` bytes, as far as the connection holds.

    Returns:
        Whether the file is as long as the server's, as far as the server tells its length.
    """
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            return True  # nothing follows these bytes: this is the whole file, or another one
        raise DownloadError(f"the server answers {error.code} ({error.reason})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with answer, open(part, "ab") as file:
        continued = (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        file.truncate(start if continued else 0)  # a server without ranges sends everything
        position = start if continued else 0
        whole = _length_of(answer.headers.get("Content-Length"), position)
        _logger.info("downloading %s%s", url, f" from byte {position:,} on" if position else "")
        while True:
            try:
                chunk = answer.read(_CHUNK_BYTES)
            except (OSError, http.client.HTTPException):
                return False
            if not chunk:
                return whole is None or position == whole
            file.write(chunk)
            position += len(chunk)
            if position > largest:
                file.truncate(0)
                raise DownloadError(f"it is another file: longer than {largest:,} bytes")


def _length_of(content_length: str | None, position: int) -> int | None:
    """Return the length of the whole file; None if the server doesn't tell it, or tells nonsense.

    Args:
        content_length: the header of this name, the bytes that are still to come.
        position: how many bytes are there.
    """
    text = (content_length or "").strip()
    return position + int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
