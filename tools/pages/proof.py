"""The tables and figures of docs/proof.md and README.md, from results/proof/.

    python -m tools.pages.proof results/proof docs/proof.png

``tools.measure.proof`` writes the records, ``tables.py`` puts the tables into the pages, and this
command draws the page's figure, and README's beside it (docs/proof_summary.png). Without records
there are none, and the tables say "not run".
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.plots import BLUE, GREY, ORANGE, new_figure
from tools.measure.proof_list import DATA_SETS, EPOCHS, PAIR, QUESTIONS, QUICK, ROWS, rows_of
from tools.pages import markdown
from tools.pages.charts import chart_main, save_chart

__all__ = [
    "PROOF_SECTIONS",
    "Proof",
    "draw_chart",
    "draw_summary",
    "expectation",
    "main",
    "read_proof",
    "recipe_summary",
    "summary",
]

TIMED_BATCH = "32"
# The goals that were set before the first run, in points of top-1 on Fashion-MNIST.
GOAL_LOSS, GOAL_PARENT, GOAL_LONG = 0.3, 94.5, 95.3
_CAPTION = (
    "Mean over seeds; bars are standard deviations, where there is more than one seed. Horizontal "
    "axes are logarithmic, and vertical axes don't begin at 0."
)
_MARKERS = "os^vDPX<>*hpd8"
_WIDE = 4  # an axis with more between its ends has ticks at 1, 2 and 5 alone
_FIT_EPOCHS = (0, 1, 3, EPOCHS)
# Question -> pairs of rows: the first is compared with the second.
_COMPARED = {
    "parent": (("ghost_resnet20", "resnet20"), ("ghost_resnet56", "resnet56")),
    "thin": (("ghost_resnet20", "thin"),),
    "deep": (("resnet56", "resnet20"),),
    "shallow": (("ghost_resnet56", "resnet20"),),
    "s_d": tuple((row, "ghost_resnet20") for row in ("s3", "s4", "s5", "d3", "d5")),
    "fit": (("fit_1", "random_1"), ("fit_3", "random_3"), ("fit_15", "ghost_resnet20")),
    "distilled": (("distilled", "ghost_resnet20"),),
    "long": (
        ("resnet20_long", "resnet20"),
        ("ghost_resnet20_long", "ghost_resnet20"),
        ("ghost_resnet20_long", "resnet20_long"),
    ),
}
_YES_OR_NO = ("parent", "thin", "distilled")  # whether the first row is as good as, or better


@dataclass(frozen=True)
class Proof:
    """What is recorded.

    Args:
        records: of the runs, in the order of their names.
        times: data set -> what was measured of its networks' batches, and how.
        published: tables of published numbers.
    """

    records: Sequence[Mapping[str, Any]] = ()
    times: Mapping[str, Any] = field(default_factory=dict)
    published: Sequence[Mapping[str, Any]] = ()

    def runs(self, data: str, row: str) -> list[Mapping[str, Any]]:
        """Return the records of a row, by seed."""
        found = [one for one in self.records if (one["data"], one["row"]) == (data, row)]
        return sorted(found, key=lambda one: one["seed"])

    def top1(self, data: str, row: str, seed: int | None = None) -> list[float]:
        """Return the accuracies of a row's seeds, or of one of them, in percent."""
        runs = [one for one in self.runs(data, row) if seed is None or one["seed"] == seed]
        return [100 * one["correct"] / one["images"] for one in runs]

    def milliseconds(self, data: str, row: str) -> float | None:
        """Return the time of a batch, if it was measured."""
        rows = self.times.get(data, {}).get("milliseconds", {})
        return rows.get(row, {}).get(TIMED_BATCH)


def read_proof(folder: str | os.PathLike) -> Proof:
    """Read all records of a folder.

    Raises:
        ReportError: if a file is of another kind, or of a row that isn't in the list.
    """
    records, times, published = [], {}, ()
    for path in sorted(Path(folder).glob("*.json")):
        result = read_json(path)
        kind = result.get("kind")
        if kind == "proof":
            if result["row"] not in ROWS or result["data"] not in DATA_SETS:
                raise ReportError(f"{path}: there is no row {result['data']}, {result['row']}")
            records.append(result)
        elif kind == "proof_times":
            times[result["data"]] = result
        elif kind == "proof_published":
            published = result["tables"]
        else:
            raise ReportError(f"{path}: kind is {kind!r}, not proof, proof_times, proof_published")
    return Proof(records, times, published)


def data_table(proof: Proof, data: str) -> str:
    """Return the table of a data set's networks."""
    head = ("Network", "Epochs", "Params (M)", "MACs (M)", "Top-1 (%)", "Right answers by seed")
    head += ("Minutes of training", f"Inference, ms ({TIMED_BATCH} images)")
    rows = []
    for name, row in rows_of(data).items():
        runs = proof.runs(data, name)
        if row.question in ("fit", "quick"):
            continue
        ms = proof.milliseconds(data, name)
        rows.append(
            (
                row.title,
                row.epochs,
                f"{runs[0]['parameters'] / 1e6:.3f}" if runs else "–",
                f"{runs[0]['macs'] / 1e6:.1f}" if runs else "–",
                markdown.mean_and_spread(proof.top1(data, name)),
                ", ".join(f"{one['correct']:,}" for one in runs) or "–",
                _training_time(runs, 60, "{:.1f}") if runs else "–",
                "–" if ms is None else f"{ms:.2f}",
            )
        )
    images = {one["images"] for one in proof.records if one["data"] == data}
    note = "".join(f"\nRight answers of {count:,} test images.\n" for count in sorted(images))
    return markdown.table(head, rows) + note


def _training_time(runs: Sequence[Mapping[str, Any]], unit: int, form: str) -> str:
    """Say how long a training takes and with how many cores.

    Args:
        runs: of a row; the quickest one counts, because others may have shared the machine.
        unit: in seconds.
        form: how to print the number.
    """
    quickest = min(runs, key=_seconds)
    return f"{form.format(_seconds(quickest) / unit)} ({_cores(quickest)})"


def _seconds(run: Mapping[str, Any]) -> float:
    return run["epoch_seconds"] * run["epochs"]


def _cores(run: Mapping[str, Any]) -> str:
    """Return "2 cores", or "1 core, then 2 cores" of a run that went on elsewhere."""
    return ", then ".join(part.rpartition(", ")[2] for part in run["hardware"].split(", then "))


def fit_table(proof: Proof) -> str:
    """Return the table of fitted and random starts after some epochs."""
    head = ("Data", "Start", *(f"{n} epoch{'s' * (n != 1)}" for n in _FIT_EPOCHS))
    rows = []
    for data, title in DATA_SETS.items():
        fitted = [f"fit_{n}" for n in _FIT_EPOCHS]
        if not set(fitted) & set(rows_of(data)):
            continue
        random = ["", "random_1", "random_3", "ghost_resnet20"]
        for start, names in (("fitted to ResNet-20", fitted), ("random", random)):
            cells = [
                markdown.mean_and_spread(proof.top1(data, n, seed=0)) if n else "–" for n in names
            ]
            rows.append((title, start, *cells))
    note = (
        "\nTop-1 (%) of seed 0. Every number is a run of its own, whose schedule ends with its "
        f"last epoch. The fitted network has the {EPOCHS} epochs of its parent behind it. Its "
        "learning rate begins at 0.01, that of random weights at 0.1: neither was tuned, and the "
        "other way round wasn't run. The runs of 1 epoch have no warm-up, the longer ones one "
        "epoch of it.\n"
    )
    return markdown.table(head, rows) + note


def findings(proof: Proof) -> str:
    """Return the answers to the questions that the runs allow, in sentences."""
    parts = []
    for key, question in QUESTIONS.items():
        lines = [
            f"- {title}: {sentence}\n"
            for data, title in DATA_SETS.items()
            for one, other in _COMPARED.get(key, ())
            if (sentence := _difference(proof, data, key, one, other))
        ]
        parts += [f"**{question}**\n\n{''.join(lines)}"] if lines else []
    goals = "".join(f"{line}\n" for line in _goals(proof))
    title = "**Goals that were set before the first run (Fashion-MNIST)**"
    parts += [f"{title}\n\n{goals}"] if goals else []
    return "\n".join(parts or ["Nothing has been compared yet.\n"])


def _difference(proof: Proof, data: str, question: str, one: str, other: str) -> str:
    """Compare two rows in a sentence; "" if one of them wasn't run."""
    # A fitted start and a random one have their seeds in common.
    seed = 0 if question == "fit" else None
    a, b = proof.top1(data, one, seed), proof.top1(data, other, seed)
    if not a or not b:
        return ""
    gap = statistics.mean(a) - statistics.mean(b)
    compared = ROWS["random_1" if question == "fit" else other].title
    epochs, name = ROWS[one].epochs, ROWS[one].title
    is_longer = epochs != ROWS[other].epochs and question != "fit"
    if is_longer:
        name += f" after {epochs} epochs"
        compared += f" after {ROWS[other].epochs}"
    text = f"{name} is {abs(gap):.2f} points {'above' if gap >= 0 else 'below'} {compared}"
    if not is_longer and (epochs != EPOCHS or question == "fit"):
        text += f" after {epochs} epoch{'s' * (epochs > 1)}"
    first, second = proof.runs(data, one)[0], proof.runs(data, other)[0]
    if first["macs"] != second["macs"]:
        text += f", with {first['macs'] / second['macs']:.2f} of the operations and "
        text += f"{first['parameters'] / second['parameters']:.2f} of the parameters"
    if len(a) < 2 or len(b) < 2:
        counts = sorted({len(a), len(b)})
        seeds = f"one seed against the mean of {counts[-1]}" if len(counts) > 1 else "one seed each"
        return f"{text} ({seeds}: no standard error)."
    error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    seeds = f"{len(a)} seeds each" if len(a) == len(b) else f"{len(a)} and {len(b)} seeds"
    text = f"{text}. The standard error of that difference, from {seeds}, is {error:.2f} points."
    return f"{_answer(gap, error)}{text}" if question in _YES_OR_NO else text


def _answer(gap: float, error: float) -> str:
    """Answer a question that is true if the first row isn't below the second."""
    if abs(gap) <= 2 * error:
        return "**No clear difference.** "
    return "**Yes.** " if gap > 0 else "**No.** "


def _goals(proof: Proof) -> list[str]:
    """Return the goals that the runs decide."""
    data, lines = "fashion_mnist", []
    parent, ghost = (proof.top1(data, row) for row in PAIR)
    if parent and ghost:
        # Rounded, because 93.87 - 93.57 isn't 0.3 in binary numbers.
        loss = round(statistics.mean(parent) - statistics.mean(ghost), 6)
        goal = f"Ghost-ResNet-20 within {GOAL_LOSS} points of its parent's mean"
        found = f"{abs(loss):.2f} points {'below' if loss >= 0 else 'above'}"
        lines.append(_goal(goal, found, loss <= GOAL_LOSS))
    if parent:
        mean = statistics.mean(parent)
        goal = f"ResNet-20 at {GOAL_PARENT} % or better after {EPOCHS} epochs"
        lines.append(_goal(goal, f"{mean:.2f} %", mean >= GOAL_PARENT))
    long = [value for row in PAIR for value in proof.top1(data, f"{row}_long")]
    if len(long) == len(PAIR):
        goal = f"a long run of the pair at {GOAL_LONG} % or better"
        values = " and ".join(f"{value:.2f} %" for value in long)
        lines.append(_goal(goal, values, min(long) >= GOAL_LONG))
    return lines


def _goal(goal: str, found: str, met: bool) -> str:
    return f"- {goal}: {found}, {'met' if met else '**missed**'}."


def published_tables(proof: Proof) -> str:
    """Return the tables of others' numbers, each with its source."""
    parts = []
    for table in proof.published:
        text = markdown.table(tuple(table["columns"]), [tuple(row) for row in table["rows"]])
        parts.append(f"**{table['title']}**\n\n{text}\nSource: {table['source']}\n")
    return "\n".join(parts) or "–\n"


def expectation(proof: Proof) -> str:
    """Return what the quick trial gives, from its records."""
    runs = proof.runs("fashion_mnist", QUICK)
    if not runs:
        return "What to expect of the quick trial: not measured yet."
    seconds = [one["train_seconds"] for one in runs]
    machines = sorted({one["hardware"] for one in runs})
    top1 = markdown.mean_and_spread(proof.top1("fashion_mnist", QUICK))
    return (
        f"Expect {top1} % top-1 (mean and standard "
        f"deviation of {len(runs)} seed{'s' * (len(runs) > 1)}) after "
        f"{min(seconds):.0f} to {max(seconds):.0f} s of training on {' and '.join(machines)}."
    )


def runs_list(proof: Proof) -> str:
    """Return what the numbers stand on: commits, machines, versions."""
    groups: dict[tuple, list[str]] = {}
    for one in proof.records:
        versions = ", ".join(f"{name} {number}" for name, number in sorted(one["versions"].items()))
        key = (one["commit"], one["hardware"], versions)
        groups.setdefault(key, []).append(one["date"][:10])
    lines = [
        f"- {len(dates)} run{'s' * (len(dates) > 1)} from commit `{commit}`, "
        f"{' to '.join(sorted({min(dates), max(dates)}))}, {hardware}; {versions}."
        for (commit, hardware, versions), dates in groups.items()
    ]
    lines += [
        f"- Times of batches, {DATA_SETS[data]}: {times['hardware']}, commit `{times['commit']}`, "
        f"{times['date'][:10]}; medians, and the networks took turns."
        for data, times in proof.times.items()
    ]
    return "\n".join(lines or ["No run has been recorded yet."]) + "\n"


def chart_text(proof: Proof) -> str:
    """Return the link to the figure, if there is anything in it."""
    if not _points(proof):
        return "There is no figure yet: no network has been trained.\n"
    return (
        f"![Top-1 against operations, and against the time of a batch](proof.png)\n\n{_CAPTION}\n"
    )


def summary(proof: Proof) -> str:
    """Return the figure and the result of the main pair in a few lines, for README.md."""
    lines = []
    for data, title in DATA_SETS.items():
        parent, ghost = (proof.top1(data, row) for row in PAIR)
        if parent and ghost:
            first, second = (proof.runs(data, row)[0]["macs"] for row in PAIR)
            lines.append(
                f"- {title}: Ghost-ResNet-20 **{markdown.mean_and_spread(ghost)} %** top-1 with "
                f"{second / first:.2f} of the operations of ResNet-20, which has "
                f"**{markdown.mean_and_spread(parent)} %**.{_thin_text(proof, data)}\n"
            )
    if not lines:
        return "The accuracy of Ghost networks hasn't been measured yet.\n"
    seeds = sorted({len(proof.top1(data, row)) for data in DATA_SETS for row in PAIR} - {0})
    return (
        "[![Top-1 against operations](docs/proof_summary.png)](docs/proof.md)\n\n"
        f"{_CAPTION}\n\n"
        f"Measured on a CPU after {EPOCHS} epochs, mean and standard deviation of "
        f"{' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])} ([all networks, and what "
        f"this doesn't show](docs/proof.md)):\n\n{''.join(lines)}"
    )


def _thin_text(proof: Proof, data: str) -> str:
    thin = proof.top1(data, "thin")
    if not thin:
        return ""
    return (
        " A thinner ResNet-20 with as many operations as the Ghost network has "
        f"**{markdown.mean_and_spread(thin)} %**."
    )


def recipe_summary(proof: Proof, recipe: str) -> dict[str, Any] | None:
    """Return what a recipe's own runs gave; None if there are none.

    Returns:
        ``top1``, ``hours`` and ``epoch_seconds`` as text, ``parameters`` and ``seeds``.
    """
    runs = [one for one in proof.records if one["recipe"] == recipe and not one["options"]]
    runs = [one for one in runs if one["epochs"]]
    if not runs:
        return None
    return {
        "top1": markdown.mean_and_spread([100 * one["correct"] / one["images"] for one in runs]),
        "hours": _training_time(runs, 3600, "{:.2f}"),
        "parameters": runs[0]["parameters"],
        "epoch_seconds": _training_time(runs, runs[0]["epochs"], "{:.1f}"),
        "seeds": len(runs),
    }


@dataclass(frozen=True)
class _Point:
    title: str
    macs: float
    ms: float | None
    top1: list[float]
    colour: str
    marker: str


def _points(proof: Proof) -> dict[str, list[_Point]]:
    """Return data set -> the networks that were trained with the common budget."""
    found: dict[str, list[_Point]] = {}
    for data in DATA_SETS:
        for name, row in ROWS.items():
            runs = proof.runs(data, name)
            if not runs or not (row.is_a_network or row.question == "distilled"):
                continue
            colour = BLUE if row.title.startswith("Ghost") else GREY
            colour = ORANGE if row.question == "distilled" else colour
            # A taught network is the same network as an untaught one.
            timed = "ghost_resnet20" if row.question == "distilled" else name
            ms = proof.milliseconds(data, timed)
            marker = _MARKERS[list(ROWS).index(name) % len(_MARKERS)]
            top1 = proof.top1(data, name)
            point = _Point(row.title, runs[0]["macs"] / 1e6, ms, top1, colour, marker)
            found.setdefault(data, []).append(point)
    return found


def draw_chart(folder: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draw top-1 against MACs and against the time of a batch; nothing without runs."""
    points = _points(read_proof(folder))
    if not points:
        print(f"{folder} holds no run to draw")
        return
    figure = new_figure(12.5, 0.6 + 4.2 * len(points))
    panels = figure.subplots(len(points), 2, squeeze=False)
    for (data, networks), (left, right) in zip(points.items(), panels):
        _draw_panel(left, [(p.macs, p) for p in networks], "multiply-adds of an image (millions)")
        timed = [(p.ms, p) for p in networks if p.ms is not None]
        label = f"inference of {TIMED_BATCH} images (ms), this package's operators"
        _draw_panel(right, timed, label)
        left.set_title(DATA_SETS[data], size=10, loc="left")
        _put_legend(right, *left.get_legend_handles_labels())
    save_chart(figure, png, folder)


def draw_summary(folder: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draw top-1 against MACs, all data sets in a row; nothing without runs."""
    points = _points(read_proof(folder))
    if not points:
        return
    figure = new_figure(3.0 + 4.6 * len(points), 3.6)
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    shown: dict[str, Any] = {}
    for (data, networks), axes in zip(points.items(), panels):
        _draw_panel(axes, [(p.macs, p) for p in networks], "multiply-adds of an image (millions)")
        axes.set_title(DATA_SETS[data], size=10, loc="left")
        handles, names = axes.get_legend_handles_labels()
        shown = {**dict(zip(names, handles)), **shown}
    _put_legend(panels[-1], list(shown.values()), list(shown))
    save_chart(figure, png, folder)


def _put_legend(axes: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put a legend to the right of a panel."""
    axes.legend(
        handles, names, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8
    )


def _draw_panel(axes: Any, points: Sequence[tuple[float, _Point]], label: str) -> None:
    from matplotlib import ticker  # new_figure says so where it isn't installed

    axes.set_xlabel(label, size=9)
    axes.set_ylabel("top-1 (%)", size=9)
    axes.grid(axis="y", color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not points:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.set_xscale("log")
    places = [x for x, _ in points]
    if max(places) > _WIDE * min(places):
        # Each of 8, 9, 10 and 90, 100 would touch its neighbour.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=8, length=3, pad=3)  # 10 is a tick like 9
    for x, point in points:
        mean = statistics.mean(point.top1)
        bar = statistics.stdev(point.top1) if len(point.top1) > 1 else None
        axes.errorbar(
            x,
            mean,
            yerr=bar,
            fmt=point.marker,
            color=point.colour,
            label=point.title,
            capsize=3,
            markersize=7,
            markerfacecolor="none",  # some networks are at about the same place
            markeredgewidth=1.4,
        )
    axes.margins(x=0.08, y=0.1)


PROOF_SECTIONS = {
    **{f"proof_{data}": (lambda proof, data=data: data_table(proof, data)) for data in DATA_SETS},
    "proof_fit": fit_table,
    "proof_findings": findings,
    "proof_published": published_tables,
    "proof_quick": lambda proof: expectation(proof) + "\n",
    "proof_runs": runs_list,
    "proof_chart": chart_text,
    "proof_summary": summary,
}
"""Name of a section -> function of a :class:`Proof` that returns its text."""


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Draw both figures; return the exit status."""

    def draw(folder: str, png: str) -> None:
        draw_chart(folder, png)
        draw_summary(folder, Path(png).with_stem(Path(png).stem + "_summary"))

    return chart_main(argv, "proof", "results/proof", draw)


if __name__ == "__main__":
    sys.exit(main())
