"""The table of supported releases, from what ``tools.measure.support`` recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindcv_ghost.compat import CALLS_SINCE

__all__ = ["calls_table", "support_table"]

_PACKAGES = ("mindspore", "python", "numpy", "mindcv")
_HEAD = ("MindSpore", "Python", "NumPy", "MindCV")


def support_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row per environment and a column per subject.

    Args:
        rows: of ``results/support.json``.
    """
    if not rows:
        return "not measured\n"
    subjects = list(rows[0]["subjects"])
    lines = [(*_HEAD, *subjects), ("---",) * (len(_HEAD) + len(subjects))]
    for row in rows:
        cells = [_cell(row["subjects"][subject]) for subject in subjects]
        lines.append((*(row[package] for package in _PACKAGES), *cells))
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    newest = max(rows, key=lambda row: row["date"])
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in rows))
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(row["commit"] for row in rows))
    note = f"Tests that passed, by `make test-releases`: {machines}, {newest['date'][:10]}, "
    return f"{table}\n{note}commit {commits}.\n"


def _cell(count: Mapping[str, int]) -> str:
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    ran = count["passed"] + count["failed"]
    if not ran:
        return "not run"
    failed = f" **{count['failed']} of {ran} failed**" if count["failed"] else f"{ran}"
    return f"{failed.strip()}{skipped}"


def calls_table() -> str:
    """Return the table of the package's calls that not every MindSpore 2 has."""
    lines = ["| call | since MindSpore |", "| --- | --- |"]
    lines += [f"| `mindspore.{call}` | {since} |" for call, since in CALLS_SINCE.items()]
    return "\n".join(lines) + "\n"
