"""Which pictures a command line means: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence

from mindcv_ghost.data.sets.image_file import MAX_FILE_BYTES
from mindcv_ghost.data.sets.image_folder import EXTENSIONS
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError

__all__ = ["STANDARD_INPUT", "find_pictures", "read_standard_input"]

STANDARD_INPUT = "-"


def find_pictures(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """List the pictures that words of a command line name, in their order.

    Args:
        words: files, whatever their names; folders, whose picture files are taken with those of
            their folders, sorted; patterns such as ``val/**/*.png``, sorted; "-".

    Returns:
        The paths ("-" as it is), and a line for each word that names nothing.

    Raises:
        DataError: if there is no picture at all.
    """
    found: list[str] = []
    problems: list[str] = []
    for word in words:
        if word == STANDARD_INPUT or os.path.isfile(word):
            found.append(word)
        elif os.path.isdir(word):
            inside = _in_folder(word, problems)
            if not inside:
                kinds = " ".join(EXTENSIONS)
                problems.append(f"{printable(word)} has no images ({kinds})")
            found += inside
        elif os.path.lexists(word):  # a pipe, a device: told when it is read
            found.append(word)
        else:
            matches = sorted(glob.glob(word, recursive=True))
            if not matches:
                problems.append(f"{printable(word)}: there is no such file")
            inside = []
            for match in matches:
                inside += _in_folder(match, problems) if os.path.isdir(match) else [match]
            # ** matches folders and the files in them: each once.
            found += {os.path.normpath(path): path for path in inside}.values()
    if not found:
        raise DataError("; ".join(problems))
    return found, problems


def _in_folder(folder: str, problems: list[str]) -> list[str]:
    """List the picture files in a folder and in its folders, but not in hidden ones."""

    def tell(error: OSError) -> None:
        problems.append(f"{printable(error.filename)} can't be listed: {error.strerror}")

    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        pictures = [f for f in files if f.lower().endswith(EXTENSIONS) and not f.startswith(".")]
        found += [os.path.join(place, name) for name in sorted(pictures)]
    return found


def read_standard_input() -> bytes:
    """Read one picture from standard input.

    Raises:
        DataError: if a terminal is there, or more than a picture may have.
    """
    if sys.stdin.isatty():
        raise DataError("- reads one image from standard input: mindcv-ghost infer - < cat.jpg")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"standard input has more than {MAX_FILE_BYTES:,} bytes")
    return data
