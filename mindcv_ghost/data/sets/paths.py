"""File names in messages."""

from __future__ import annotations

import os

__all__ = ["printable"]


def printable(path: str | os.PathLike) -> str:
    r"""Return a path that any terminal can print: bytes that aren't UTF-8 become ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
