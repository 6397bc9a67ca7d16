"""Which code produced a file, and when, and what identifies a file."""

from __future__ import annotations

import hashlib
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

__all__ = ["digest_of", "is_repeatable", "sha256_of", "source_commit", "utc_now"]

_CHUNK_BYTES = 1 << 22
_DIRTY = "-dirty"
# Of what is run from a checkout. A star matches slashes, too.
_CODE = ("mindcv_ghost/*.py", "mindcv_ghost/*.cc", "mindcv_ghost/*.h", "tools/*.py", "benchmarks/*")


def source_commit() -> str | None:
    """Return the git commit of this package, with ``-dirty`` appended if files differ from it.

    A file of code that git doesn't know is a difference, too. None if the package isn't in a git
    checkout of its own.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
        unknown = _git(root, "ls-files", "--others", "--exclude-standard", "--", *_CODE)
    except (OSError, subprocess.SubprocessError):
        return None
    if unknown and not commit.endswith(_DIRTY):
        commit += _DIRTY
    return commit or None


def _git(root: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return answer.stdout.strip()


def is_repeatable(commit: str | None) -> bool:
    """Say whether :func:`source_commit` names code that others can have.

    >>> is_repeatable("0123456789ab"), is_repeatable("0123456789ab-dirty"), is_repeatable(None)
    (True, False, False)
    """
    return bool(commit) and _DIRTY not in str(commit)


def utc_now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    return digest_of(path, "sha256")


def digest_of(path: str | os.PathLike, algorithm: str) -> str:
    """Return the digest of a file's content, in hexadecimal digits.

    Args:
        path: of the file.
        algorithm: sha256 or md5, which is enough against accidents: some data sets publish nothing
            else.
    """
    digest = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
