"""The performance page's tables and chart of the benchmarks, from ``benchmarks/results.csv``.

    python -m tools.pages.benchmarks benchmarks/results.csv docs/performance.png

``benchmarks/run_all.py`` writes that file, ``tables.py`` puts the tables into the page, and this
command draws the chart.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.plots import BLUE, GREY, ORANGE, new_figure
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
NOT_MEASURED = "not measured\n"
_DEVICES = (8, 64, 512)


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
    """Return a table per benchmark; a ratio below 1 and a missed goal are bold.

    Failed commands come last.
    """
    parts = []
    for name in dict.fromkeys(row["benchmark"] for row in rows if row["benchmark"] != FAILED):
        lines = ["| case | ours | rival | rival's | ratio | goal | met |", "| --- " * 7 + "|"]
        chosen = [row for row in rows if row["benchmark"] == name]
        for row in chosen:
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
            if row["ratio"] is not None and row["ratio"] < 1:
                ratio = f"**{ratio}**"
            met = "**no**" if row["met"] == "no" else row["met"] or "–"
            rivals = "–" if row["rival_value"] is None else f"{row['rival_value']:.4g}"
            cells = (row["case"], f"{row['value']:.4g} {row['unit']}", row["rival"] or "–", rivals)
            lines.append("| " + " | ".join((*cells, ratio, row["goal"] or "–", met)) + " |")
        machines = sorted({(row["machine"], row["versions"], row["commit"]) for row in chosen})
        notes = [f"{m}; {v}; commit {c}." for m, v, c in machines]
        parts.append(f"**{name}**\n\n" + "\n".join(lines) + "\n\n" + " ".join(notes) + "\n")
    failed = [row for row in rows if row["benchmark"] == FAILED]
    if failed:
        lines = [f"- `{row['command']}` ({row['date']}): {row['case']}" for row in failed]
        parts.append(f"**{FAILED}**\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts) or NOT_MEASURED


def scaling_table(rows: Sequence[dict]) -> str:
    """Return the table that projects step, all-reduce and loader to more devices; see the page."""
    step = _find(rows, "Data parallel", "2 ranks of a core")
    reduce = _find(rows, "Data parallel", "all-reduce")
    loader = _find(rows, "JPEG to batch", "training, 1 worker")
    if step is None or reduce is None or loader is None:
        return NOT_MEASURED
    batch = int(re.search(r"global batch (\d+)", step["case"])[1]) // 2
    numbers = float(re.search(r"of ([0-9.]+) M float32", reduce["case"])[1])
    whole, two = 2 * batch / step["value"], reduce["value"]
    compute = whole - two
    if compute <= 0:
        raise ReportError(f"an all-reduce of {two} s is longer than the step of {whole} s it is in")
    lines = ["| devices | all-reduce (s) | step (s) | images/s | efficiency | loaders must give |"]
    lines.append("| --- " * 6 + "|")
    for devices in _DEVICES:
        reduced = two * 2 * (devices - 1) / devices
        total = compute + reduced
        speed = devices * batch / total
        lines.append(
            f"| {devices} | {reduced:.3f} | {total:.3f} | {speed:.0f} | {compute / total:.2f} | "
            f"{speed:.0f} images/s, {speed / loader['value']:.1f} cores like this one |"
        )
    head = (
        f"Measured: a step of {whole:.3f} s with {batch} images a rank, {two:.3f} s of it the "
        f"all-reduce of {numbers:.2f} M float32 over 2 ranks, so {4e-3 * numbers / two:.2f} GB/s "
        f"each way; a loader of {loader['value']:.0f} images/s a core.\n"
    )
    return head + "\n" + "\n".join(lines) + "\n"


def _find(rows: Sequence[dict], benchmark: str, words: str) -> dict | None:
    for row in rows:
        if row["benchmark"] == benchmark and words in row["case"]:
            return row
    return None


def draw_chart(results: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draw each ratio to a rival as a bar, and its goal as a mark.

    Raises:
        ReportError: if there is no ratio to draw, or no matplotlib.
    """
    rows = [row for row in read_results(results) if row["ratio"] is not None]
    if not rows:
        raise ReportError(f"{results} holds no ratio to draw")
    figure = new_figure(9.0, 1.2 + 0.34 * len(rows))
    axes = figure.subplots()
    places = range(len(rows))[::-1]
    colours = [BLUE if row["ratio"] >= 1 else ORANGE for row in rows]
    axes.barh(places, [row["ratio"] for row in rows], color=colours, height=0.62)
    for place, row in zip(places, rows):
        axes.text(row["ratio"], place, f" {row['ratio']:.2f}", va="center", fontsize=7)
        found = re.search(r"[0-9.]+", row["goal"])
        if found:
            axes.plot([float(found[0])], [place], "|", color="black", markersize=12)
    axes.axvline(1, color=GREY, linewidth=0.8)
    names = [f"{row['benchmark']}: {row['case']}\nagainst {row['rival']}" for row in rows]
    axes.set_yticks(list(places), names, fontsize=6)
    axes.set_xlabel("times as good as the rival (black: the goal)")
    save_chart(figure, png, results)


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Draw the chart; return the exit status."""
    return chart_main(argv, "benchmarks", "benchmarks/results.csv", draw_chart)


if __name__ == "__main__":
    sys.exit(main())
