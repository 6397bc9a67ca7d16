"""Which code produced a file, and when, and what identifies a file."""

from __future__ import annotations

import hashlib
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

__all__ = ["digest_of", "is_repeatable", "sha256_of", "source_commit", "utc_now"]

_CHUNK_BYTES = 1 << 22


def source_commit() -> str | None:
    """Return the git commit of this package, with ``-dirty`` appended if files differ from it.

    None if the package isn't in a git checkout of its own.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    describe = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *describe],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def is_repeatable(commit: str | None) -> bool:
    """Say whether :func:`source_commit` names code that others can have.

    >>> is_repeatable("0123456789ab"), is_repeatable("0123456789ab-dirty"), is_repeatable(None)
    (True, False, False)
    """
    return bool(commit) and "-dirty" not in str(commit)


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
