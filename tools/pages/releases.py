"""The table of docs/versions.md: a training step's time by MindSpore release."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mindcv_ghost.report import ReportError
from tools.pages import markdown
from tools.pages.benchmark_rows import read_rows

__all__ = ["COLUMNS", "check_comparable", "read_releases", "releases_table"]

COLUMNS = ("mindspore", "operators", "batch", "side", "seconds", "machine", "versions", "commit")
COLUMNS += ("date",)


def read_releases(path: str | os.PathLike) -> list[dict]:
    """Read benchmarks/releases.csv; return no rows if there is no such file.

    Raises:
        ReportError: if ``benchmarks/releases.py`` can't have written the rows.
    """

    def convert(row: dict) -> None:
        row["seconds"] = float(row["seconds"])

    rows = read_rows(path, COLUMNS, convert)
    check_comparable(rows)
    return rows


def check_comparable(rows: Sequence[dict]) -> None:
    """Check that what differs between rows is the release and the operators.

    Raises:
        ReportError: if they are of several machines, sizes or commits.
    """
    for name in ("machine", "batch", "side", "commit"):
        values = list(dict.fromkeys(str(row[name]) for row in rows))
        if len(values) > 1:
            raise ReportError(
                f"times of different releases are compared, but these have {len(values)} values of "
                f"{name}: {'; '.join(values)}. Measure all releases alike, or write to another file"
            )


def releases_table(rows: Sequence[dict]) -> str:
    """Return a table with a row per release: a stock and a native step, and their ratio."""
    if not rows:
        return f"{markdown.NOT_MEASURED}\n"
    head = ("MindSpore", "stock operators (s a step)", "native operators (s a step)", "ratio")
    lines = []
    for release in dict.fromkeys(row["mindspore"] for row in rows):
        seconds = {r["operators"]: r["seconds"] for r in rows if r["mindspore"] == release}
        ratio = seconds["stock"] / seconds["native"]
        times = (f"{seconds['stock']:.2f}", f"{seconds['native']:.2f}")
        lines.append((release, *times, f"{ratio:.1f}"))
    first = rows[0]
    note = (
        f"Training ghost_resnet50, {first['batch']} images of {first['side']}x{first['side']}, "
        f"{first['machine']}, commit {first['commit']}."
    )
    return f"{markdown.table(head, lines)}\n{note}\n"
