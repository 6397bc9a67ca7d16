"""The table of supported releases, from what ``tools.measure.support`` recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindcv_ghost.compat import CALLS_SINCE
from tools.pages import markdown

__all__ = ["calls_table", "support_table"]

_PACKAGES = ("mindspore", "python", "numpy", "mindcv")
_HEAD = ("MindSpore", "Python", "NumPy", "MindCV")


def support_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row per environment and a column per subject.

    Args:
        rows: of ``results/support.json``.
    """
    if not rows:
        return f"{markdown.NOT_MEASURED}\n"
    subjects = list(rows[0]["subjects"])
    lines = []
    for row in rows:
        cells = [_cell(row["subjects"][subject]) for subject in subjects]
        lines.append((*(row[package] for package in _PACKAGES), *cells))
    newest = max(rows, key=lambda row: row["date"])
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in rows))
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(row["commit"] for row in rows))
    note = f"Tests that passed, by `make test-releases`: {machines}, {newest['date'][:10]}, "
    return f"{markdown.table((*_HEAD, *subjects), lines)}\n{note}commit {commits}.\n"


def _cell(count: Mapping[str, int]) -> str:
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    ran = count["passed"] + count["failed"]
    if not ran:
        return markdown.NOT_RUN
    failed = f" **{count['failed']} of {ran} failed**" if count["failed"] else f"{ran}"
    return f"{failed.strip()}{skipped}"


def calls_table() -> str:
    """Return the table of the package's calls that not every MindSpore 2 has."""
    lines = [(f"`mindspore.{call}`", since) for call, since in CALLS_SINCE.items()]
    return markdown.table(("call", "since MindSpore"), lines)
