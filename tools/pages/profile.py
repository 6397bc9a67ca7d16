"""The performance page's profile of a training step, from ``benchmarks/profile.csv``.

    python -m tools.pages.profile benchmarks/profile.csv docs/performance_profile.png

``benchmarks/profile_step.py`` writes that file, ``tables.py`` puts the tables into the page, and
this command draws the chart. A step is divided into parts. A part has a time for each of its
operators, stock (MindSpore's) and native, and one limit, which the machine's peaks set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.plots import BLUE, GREEN, GREY, new_figure
from tools.pages import markdown
from tools.pages.benchmark_rows import read_rows
from tools.pages.charts import chart_main, save_chart

__all__ = [
    "COLUMNS",
    "PARTS",
    "chart_link",
    "main",
    "operator_table",
    "part_table",
    "read_profile",
]

COLUMNS = ("operators", "part", "operator", "ms", "gflop", "mbytes", "peak_gflops", "peak_gbytes")
COLUMNS += ("case", "machine", "versions", "commit", "date")

FORWARD = "Dense convolutions, forward"
BACKWARD_INPUT = "Dense convolutions, gradient of the input"
BACKWARD_WEIGHT = "Dense convolutions, gradient of the weight"
TAILS = "Ghost and stem tails, forward"
TAILS_BACKWARD = "Ghost and stem tails, backward"
SUMS = "Sums of gradients between blocks"
HEAD = "Mean, classifier, loss"
OPTIMIZER = "Optimizer"
FINITE = "Check that gradients are finite, and their scale"
COPIES = "Moving statistics, copies"
BETWEEN = "Between operators"
PARTS = (FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, TAILS, TAILS_BACKWARD, SUMS, HEAD, OPTIMIZER)
PARTS += (FINITE, COPIES, BETWEEN)

_KINDS = ("stock", "native", "limit")


def read_profile(path: str | os.PathLike) -> list[dict]:
    """Read profile.csv; return no rows if there is no such file.

    Raises:
        ReportError: if ``profile_step.py`` can't have written a row.
    """

    def convert(row: dict) -> None:
        for name, values in (("operators", _KINDS), ("part", PARTS)):
            if row[name] not in values:
                raise ValueError(f"{name} is {row[name]!r}, not {', '.join(values)}")
        for name in ("ms", "gflop", "mbytes", "peak_gflops", "peak_gbytes"):
            row[name] = float(row[name]) if row[name] else None

    return read_rows(path, COLUMNS, convert)


def _by(name: str, rows: Sequence[dict]) -> dict[str, list[dict]]:
    values = sorted({row[name] for row in rows})
    return {value: [row for row in rows if row[name] == value] for value in values}


def _steps(rows: Sequence[dict]) -> list[list[dict]]:
    """Return the rows of each step that was measured: a case on a machine, the longest first."""
    found = [step for each in _by("case", rows).values() for step in _by("machine", each).values()]
    longest = {case: max(row["ms"] for row in each) for case, each in _by("case", rows).items()}
    return sorted(found, key=lambda step: -longest[step[0]["case"]])


def part_table(rows: Sequence[dict]) -> str:
    """Return a table per step, with a row per part: its times, the limit, and what sets it."""
    return "\n".join(map(_parts_of, _steps(rows))) or f"{markdown.NOT_MEASURED}\n"


def _parts_of(rows: Sequence[dict]) -> str:
    names = ("part of a step", *(f"{kind} (ms)" for kind in _KINDS), "set by", "native / limit")
    lines = []
    totals = dict.fromkeys(_KINDS, 0.0)
    for part in PARTS:
        times = {kind: _time(rows, kind, part) for kind in _KINDS}
        if not any(times.values()):
            continue
        for kind, time in times.items():
            totals[kind] += time
        lines.append(_line(part, times, _bound(rows, part)))
    lines.append(_line("**all**", totals, "–"))
    first = rows[0]
    head = (
        f"{first['case']}: milliseconds of a step. At the limit all cores multiply and add at "
        f"{first['peak_gflops']:.0f} GFLOP/s or move {first['peak_gbytes']:.0f} GB/s, both "
        "measured in the same run.\n"
    )
    note = f"{first['machine']}; {first['versions']}; commit {first['commit']}.\n"
    return f"{head}\n{markdown.table(names, lines)}\n{note}"


def operator_table(rows: Sequence[dict]) -> str:
    """Return a table per case: each operator that takes a millisecond, a column per machine."""
    found = [row for row in rows if row["operators"] != "limit" and row["ms"] >= 1]
    cases = dict.fromkeys(step[0]["case"] for step in _steps(found))
    tables = [_operators_of([row for row in found if row["case"] == case]) for case in cases]
    if len(tables) > 1:
        tables = [f"{case}:\n\n{table}" for case, table in zip(cases, tables)]
    return "\n".join(tables) or f"{markdown.NOT_MEASURED}\n"


def _operators_of(rows: Sequence[dict]) -> str:
    machines = list(_by("machine", rows))
    names = ("operators", "part", "operator")
    heads = ("operators", "part of a step", "operator", *(f"{each} (ms)" for each in machines))
    lines = []
    times: dict[tuple, dict[str, float]] = {}
    for row in rows:
        times.setdefault(tuple(row[name] for name in names), {})[row["machine"]] = row["ms"]
    order = [(kind, part) for kind in _KINDS for part in PARTS]
    for key in sorted(times, key=lambda k: (order.index(k[:2]), -max(times[k].values()))):
        cells = (f"{times[key][each]:.1f}" if each in times[key] else "–" for each in machines)
        lines.append((*key, *cells))
    return markdown.table(heads, lines)


def chart_link(rows: Sequence[dict], page: str) -> str:
    """Return the link to the chart of a page, if anything was measured."""
    if not rows:
        return f"{markdown.NOT_MEASURED}\n"
    return f"![Time by part of a step, and the limit]({page}_profile.png)\n"


def _time(rows: Sequence[dict], kind: str, part: str) -> float:
    return sum(r["ms"] for r in rows if (r["operators"], r["part"]) == (kind, part))


def _bound(rows: Sequence[dict], part: str) -> str:
    """Return what sets a part's limit: its operations or the bytes that it moves."""
    for row in rows:
        if (row["operators"], row["part"]) == ("limit", part):
            if row["gflop"] / row["peak_gflops"] >= row["mbytes"] / 1e3 / row["peak_gbytes"]:
                return f"{row['gflop']:.3g} GFLOP"
            return f"{row['mbytes']:,.0f} MB"
    return "–"


def _line(part: str, times: dict[str, float], bound: str) -> tuple[str, ...]:
    ratio = f"{times['native'] / times['limit']:.1f}" if times["limit"] else "–"
    limit = f"{times['limit']:.1f}" if times["limit"] else "–"
    return part, f"{times['stock']:.1f}", f"{times['native']:.1f}", limit, bound, ratio


def draw_chart(profile: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draw each part's stock time, native time and limit as bars, in a panel per step.

    Raises:
        ReportError: if there is nothing to draw, or no matplotlib.
    """
    rows = read_profile(profile)
    parts = [part for part in PARTS if any(_time(rows, kind, part) for kind in _KINDS)]
    if not parts:
        raise ReportError(f"{profile} holds nothing to draw")
    steps = _steps(rows)
    figure = new_figure(5.0 + 4.0 * len(steps), 1.2 + 0.55 * len(parts))
    panels = figure.subplots(1, len(steps), sharey=True, squeeze=False)[0]
    for axes, measured in zip(panels, steps):
        _draw_step(axes, parts, measured)
        axes.set_title(f"{measured[0]['case']}\n{measured[0]['machine']}", size=9)
    panels[0].set_yticks([len(parts) - n for n in range(len(parts))], parts, fontsize=7)
    panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
    save_chart(figure, png, profile)


def _draw_step(axes: Any, parts: Sequence[str], rows: Sequence[dict]) -> None:
    for shift, (kind, colour) in enumerate(zip(_KINDS, (GREY, BLUE, GREEN))):
        places = [len(parts) - n - 0.27 * (shift - 1) for n in range(len(parts))]
        times = [_time(rows, kind, part) for part in parts]
        label = "limit" if kind == "limit" else f"{kind} operators"
        axes.barh(places, times, height=0.25, color=colour, label=label)
        for place, time in zip(places, times):
            axes.text(time, place, f" {time:.0f}" if time else "", va="center", fontsize=7)
    axes.set_xlabel("milliseconds of a step")


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Draw the chart; return the exit status."""
    return chart_main(argv, "profile", "benchmarks/profile.csv", draw_chart)


if __name__ == "__main__":
    sys.exit(main())
