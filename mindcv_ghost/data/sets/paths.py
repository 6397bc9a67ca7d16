"""Paths in messages."""

from __future__ import annotations

import os
import stat

__all__ = ["file_problem", "printable"]


def printable(path: str | os.PathLike) -> str:
    r"""Return a path that any terminal can print: bytes that aren't UTF-8 become ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def file_problem(path: str | os.PathLike) -> str:
    """Say why a path isn't a file, as half a sentence; "" if it is one.

    >>> file_problem("nowhere.onnx")
    "doesn't exist"
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return ""
    except (FileNotFoundError, NotADirectoryError):
        return "doesn't exist"
    except (OSError, ValueError) as problem:  # a closed folder, a long name, a NUL
        return f"can't be read: {getattr(problem, 'strerror', None) or problem}"
    return "is not a file"
