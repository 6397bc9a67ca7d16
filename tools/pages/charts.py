"""Charts that are drawn from files of results, and whose age can be checked.

A chart ends with the digest of its files. PNG readers ignore it, because it stands after the PNG's
end chunk. A test compares it with the digest of the file that is there now.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mindcv_ghost.report.plots import save_png

__all__ = ["chart_main", "save_chart", "source_digest"]


def save_chart(figure: Any, png: str | os.PathLike, source: str | os.PathLike) -> None:
    """Write a chart.

    Args:
        figure: a figure of ``mindcv_ghost.report.plots.new_figure``.
        png: the picture to write.
        source: the file of results that it was drawn from, or the folder of JSON files.
    """
    save_png(figure, png)
    with open(png, "ab") as file:
        file.write(b"mindcv_ghost results " + source_digest(source).encode())


def source_digest(source: str | os.PathLike) -> str:
    """Return the digest (SHA-256) that a chart of this file or folder ends with."""
    path = Path(source)
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.json")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def chart_main(
    argv: Sequence[str] | None, module: str, source: str, draw: Callable[[str, str], None]
) -> int:
    """Run the command line of a module that draws a file's chart; return the exit status.

    Args:
        argv: without the program's name; None for the process's own.
        module: the module's name in this package.
        source: describes the file, for ``--help``.
        draw: called with the file and the picture.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tools.pages.{module}")
    parser.add_argument("source", help=source)
    parser.add_argument("png", help="where the picture goes")
    arguments = parser.parse_args(argv)
    draw(arguments.source, arguments.png)
    return 0
