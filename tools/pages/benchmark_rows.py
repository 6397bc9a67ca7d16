"""Read a CSV file that a benchmark wrote."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

from mindcv_ghost.report import ReportError

__all__ = ["read_rows"]


def read_rows(
    path: str | os.PathLike, columns: tuple[str, ...], convert: Callable[[dict], None]
) -> list[dict]:
    """Read the rows of a file; return none if there is no such file.

    Args:
        path: the file.
        columns: its columns, in order.
        convert: checks a row and converts its numbers from text, in place. It raises TypeError or
            ValueError for an illegal row.

    Raises:
        ReportError: if a row is illegal; names its line.
    """
    path = Path(path)
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        try:
            if tuple(row) != columns:
                raise ValueError(f"columns are {', '.join(map(str, row))}")
            convert(row)
        except (TypeError, ValueError) as error:
            raise ReportError(f"{path}, line {number}: {error}") from None
    return rows
