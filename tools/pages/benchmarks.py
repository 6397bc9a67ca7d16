"""The performance page's tables and chart of the benchmarks, from ``benchmarks/results.csv``.

    python -m tools.pages.benchmarks benchmarks/results.csv docs/performance.png

``benchmarks/run_all.py`` writes that file, ``tables.py`` puts the tables into the page, and this
command draws the chart. The results of several machines stand side by side.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.plots import BLUE, GREY, ORANGE, new_figure
from tools.pages import markdown
from tools.pages.benchmark_rows import read_rows
from tools.pages.charts import chart_main, save_chart

__all__ = [
    "COLUMNS",
    "FAILED",
    "benchmark_tables",
    "main",
    "meets",
    "read_results",
    "scaling_table",
]

COLUMNS = ("benchmark", "case", "value", "unit", "rival", "rival_value", "ratio", "goal", "met")
COLUMNS += ("command", "machine", "versions", "commit", "date")
FAILED = "Failed"  # in the column "benchmark": the command failed, and "case" says how
_DEVICES = (8, 64, 512)
_CASE = ("benchmark", "case", "rival")


def meets(goal: str, ratio: float | None, value: float) -> str:
    """Return "yes" or "no", or "" if there is no goal.

    Args:
        goal: ``>= 2`` or ``<= 0.3``.
        ratio: to the rival, which the goal is for; None if there is no rival.
        value: the measured value, which the goal is for otherwise.

    Raises:
        ReportError: if the goal can't be read.

    >>> meets(">= 2", 2.1, 900.0), meets("<= 0.3", None, 0.4), meets("", 1.0, 1.0)
    ('yes', 'no', '')
    """
    if not goal:
        return ""
    found = re.fullmatch(r"(>=|<=)\s*([0-9.]+)", goal.strip())
    if not found:
        raise ReportError(f"goal {goal!r} is neither '>= NUMBER' nor '<= NUMBER'")
    reached, wanted = value if ratio is None else ratio, float(found[2])
    return "yes" if (reached >= wanted if found[1] == ">=" else reached <= wanted) else "no"


def read_results(path: str | os.PathLike) -> list[dict]:
    """Read results.csv; return no rows if there is no such file.

    Raises:
        ReportError: if ``run_all.py`` can't have written a row.
    """

    def convert(row: dict) -> None:
        if row["benchmark"] != FAILED:
            row["value"] = float(row["value"])
        for name in ("rival_value", "ratio"):
            row[name] = float(row[name]) if row[name] else None

    return read_rows(path, COLUMNS, convert)


def benchmark_tables(rows: Sequence[dict]) -> str:
    """Return which goals each machine missed, and a table per benchmark with a column per machine.

    A ratio below 1 and a missed goal are bold. Failed commands come last.
    """
    measured = [row for row in rows if row["benchmark"] != FAILED]
    parts = [_goals(measured)] if measured else []
    for name in dict.fromkeys(row["benchmark"] for row in measured):
        parts.append(_table(name, [row for row in measured if row["benchmark"] == name]))
    failed = [row for row in rows if row["benchmark"] == FAILED]
    if failed:
        lines = [
            f"- `{row['command']}` ({row['date']}, {row['machine']}): {row['case']}"
            for row in failed
        ]
        parts.append(f"**{FAILED}**\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts) or f"{markdown.NOT_MEASURED}\n"


def _machines(rows: Sequence[dict]) -> list[str]:
    return sorted({row["machine"] for row in rows})


def _goals(rows: Sequence[dict]) -> str:
    """Return a line per machine: how many goals are met, and which ones aren't."""
    lines = []
    for machine in _machines(rows):
        judged = [row for row in rows if row["machine"] == machine and row["met"]]
        missed = [row for row in judged if row["met"] == "no"]
        lines.append(f"- {machine}: {len(judged) - len(missed)} of {len(judged)} goals are met.")
        for row in missed:
            reached = f"{row['value']:.4g} {row['unit']}"
            if row["ratio"] is not None:
                reached = f"{row['ratio']:.2f} times {row['rival']}"
            lines.append(f"  - **missed**: {row['case']}: {reached}, goal {row['goal']}")
    return "**Goals**\n\n" + "\n".join(lines) + "\n"


def _table(name: str, rows: Sequence[dict]) -> str:
    """Return a benchmark's table; a cell is ``ratio (ours / rival's)``."""
    machines = _machines(rows)
    names = ("case", "rival", "unit", "goal")
    lines = []
    for key in dict.fromkeys(tuple(row[column] for column in names) for row in rows):
        same = [row for row in rows if tuple(row[column] for column in names) == key]
        cells = {row["machine"]: _cell(row) for row in same}
        texts = [text or "–" for text in key]
        lines.append([*texts, *(cells.get(each, "–") for each in machines)])
    runs = sorted({(row["machine"], row["versions"], row["commit"]) for row in rows})
    notes = [f"{machine}: {versions}; commit {commit}." for machine, versions, commit in runs]
    return f"**{name}**\n\n{markdown.table((*names, *machines), lines)}\n{' '.join(notes)}\n"


def _cell(row: dict) -> str:
    if row["ratio"] is None:
        text = f"{row['value']:.4g}"
    else:
        ratio = f"{row['ratio']:.2f}"
        ratio = f"**{ratio}**" if row["ratio"] < 1 else ratio
        text = f"{ratio} ({row['value']:.4g} / {row['rival_value']:.4g})"
    return f"{text} **missed**" if row["met"] == "no" else text


def scaling_table(rows: Sequence[dict]) -> str:
    """Return a table per machine: step, all-reduce and loader projected to more devices."""
    parts = []
    for machine in _machines(rows):
        text = _scaling_of([row for row in rows if row["machine"] == machine])
        parts += [f"{machine}. {text}"] if text else []
    return "\n".join(parts) or f"{markdown.NOT_MEASURED}\n"


def _scaling_of(rows: Sequence[dict]) -> str:
    """Return one machine's projection; see the page. "" if a part of it wasn't measured there."""
    step = _find(rows, "Data parallel", "2 ranks of a core")
    reduce = _find(rows, "Data parallel", "all-reduce")
    loader = _find(rows, "JPEG to batch", "training, 1 worker")
    if step is None or reduce is None or loader is None:
        return ""
    batch = int(re.search(r"global batch (\d+)", step["case"])[1]) // 2
    numbers = float(re.search(r"of ([0-9.]+) M float32", reduce["case"])[1])
    whole, two = 2 * batch / step["value"], reduce["value"]
    compute = whole - two
    if compute <= 0:
        raise ReportError(f"an all-reduce of {two} s is longer than the step of {whole} s it is in")
    names = ("devices", "all-reduce (s)", "step (s)", "images/s", "efficiency", "loaders must give")
    lines = []
    for devices in _DEVICES:
        reduced = two * 2 * (devices - 1) / devices
        total = compute + reduced
        speed = devices * batch / total
        needed = f"{speed:.0f} images/s, {speed / loader['value']:.1f} cores like this one"
        times = (f"{reduced:.3f}", f"{total:.3f}", f"{speed:.0f}", f"{compute / total:.2f}")
        lines.append((devices, *times, needed))
    head = (
        f"Measured: a step of {whole:.3f} s with {batch} images a rank, {two:.3f} s of it the "
        f"all-reduce of {numbers:.2f} M float32 over 2 ranks, so {4e-3 * numbers / two:.2f} GB/s "
        f"each way; a loader of {loader['value']:.0f} images/s a core.\n"
    )
    return f"{head}\n{markdown.table(names, lines)}"


def _find(rows: Sequence[dict], benchmark: str, words: str) -> dict | None:
    for row in rows:
        if row["benchmark"] == benchmark and words in row["case"]:
            return row
    return None


def draw_chart(results: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draw each ratio to a rival as a bar, and its goal as a mark, in a panel per machine.

    Raises:
        ReportError: if there is no ratio to draw, or no matplotlib.
    """
    rows = [row for row in read_results(results) if row["ratio"] is not None]
    if not rows:
        raise ReportError(f"{results} holds no ratio to draw")
    machines = _machines(rows)
    cases = list(dict.fromkeys(tuple(row[name] for name in _CASE) for row in rows))
    figure = new_figure(5.0 + 4.0 * len(machines), 1.2 + 0.34 * len(cases))
    panels = figure.subplots(1, len(machines), sharey=True, squeeze=False)[0]
    places = {case: len(cases) - number for number, case in enumerate(cases, 1)}
    for axes, machine in zip(panels, machines):
        axes.set_title(machine, size=8)
        for row in (row for row in rows if row["machine"] == machine):
            place, ratio = places[tuple(row[name] for name in _CASE)], row["ratio"]
            axes.barh(place, ratio, color=BLUE if ratio >= 1 else ORANGE, height=0.62)
            axes.text(ratio, place, f" {ratio:.2f}", va="center", fontsize=7)
            found = re.search(r"[0-9.]+", row["goal"])
            if found:
                axes.plot([float(found[0])], [place], "|", color="black", markersize=12)
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.set_xlabel("times as good as the rival (black: the goal)", size=8)
    names = [f"{benchmark}: {case}\nagainst {rival}" for benchmark, case, rival in cases]
    panels[0].set_yticks(list(places.values()), names, fontsize=6)
    panels[0].set_ylim(-0.7, len(cases) - 0.3)
    save_chart(figure, png, results)


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Draw the chart; return the exit status."""
    return chart_main(argv, "benchmarks", "benchmarks/results.csv", draw_chart)


if __name__ == "__main__":
    sys.exit(main())
