"""``SHA256SUMS``: the checksums of a folder's files, as the command ``sha256sum`` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.provenance import sha256_of

__all__ = ["LARGEST", "SUMS", "parse_sums", "read_sums", "sums_text", "verify"]

SUMS = "SHA256SUMS"
LARGEST = 1 << 20  # bytes
# A path has no parts that lead out of the folder.
_LINE = re.compile(r"([0-9a-f]{64}) [ *]((?:[A-Za-z0-9_][\w.-]*/)*[A-Za-z0-9_][\w.-]*)")


def sums_text(folder: Path, names: Iterable[str]) -> str:
    """Compute the checksums of some files in a folder, as the text of ``SHA256SUMS``."""
    return "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names))


def parse_sums(text: str, where: str) -> dict[str, str]:
    """Read the text of ``SHA256SUMS``.

    Args:
        text: the text.
        where: it is from, for messages.

    Returns:
        path in the folder -> 64 hexadecimal digits.

    Raises:
        CheckpointError: if it is something else.
    """
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.fullmatch(line)
        if found is None or found[2] in sums:
            raise CheckpointError(
                f"{where}, line {number}: not a checksum and a file's name, as sha256sum writes "
                "them"
            )
        sums[found[2]] = found[1]
    return sums


def read_sums(folder: Path) -> dict[str, str]:
    """Read ``SHA256SUMS`` of a folder that ``mindcv-ghost publish`` wrote.

    Raises:
        CheckpointError: if there is no such file, or it is something else.
    """
    path = folder / SUMS
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LARGEST)
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise CheckpointError(
            f"{folder} isn't a folder that `mindcv-ghost publish` wrote: {SUMS} can't be read "
            f"({reason})"
        ) from None
    return parse_sums(text, str(path))


def verify(folder: Path, sums: dict[str, str], names: Iterable[str]) -> None:
    """Check files against their checksums.

    Raises:
        CheckpointError: if one isn't listed, is missing or has changed.
    """
    for name in names:
        if name not in sums:
            raise CheckpointError(f"{folder / SUMS} doesn't list {name}, which is needed")
        try:
            found = sha256_of(folder / name)
        except OSError as problem:
            raise CheckpointError(
                f"{folder / name} can't be read: {problem.strerror or problem}"
            ) from None
        if found != sums[name]:
            raise CheckpointError(
                f"{folder / name} isn't the file that was published: its SHA-256 is {found}, "
                f"{SUMS} has {sums[name]}. Copy or download the folder again."
            )
