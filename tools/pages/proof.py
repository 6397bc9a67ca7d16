"""The tables and figures of docs/proof.md and README.md, from results/proof/.

    python -m tools.pages.proof results/proof docs/proof.png

``tools.measure.proof`` writes the records, ``tables.py`` puts the tables into the pages, and this
command draws the page's figure, and README's beside it (docs/proof_summary.png). Without records
there are none, and the tables say "not run".
"""

from __future__ import annotations

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
from mindcv_ghost.report.metrics import last_run, read_metrics
from mindcv_ghost.report.plots import BLUE, GREY, ORANGE, new_figure
from mindcv_ghost.weights.finding import Published, list_shipped
from tools.measure.proof_list import (
    DATA_SETS,
    EPOCHS,
    PAIR,
    PREDICTIONS,
    QUESTIONS,
    QUICK,
    ROWS,
    Prediction,
    rows_of,
)
from tools.pages import markdown
from tools.pages.charts import chart_main, save_chart

__all__ = [
    "PROOF_SECTIONS",
    "Proof",
    "draw_chart",
    "draw_summary",
    "expectation",
    "main",
    "published_weights",
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
_WIDE = 3  # an axis with more between its ends has few ticks
_FEW_TICKS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
_FIT_EPOCHS = (0, 1, 3, EPOCHS)
# README's figure: row -> its name there, where the name is (in points from the symbol), and which
# side of it that place is.
_SUMMARY = {
    "resnet20": ("ResNet-20", (-9, -4), "right"),
    "ghost_resnet20": ("Ghost-ResNet-20", (9, -4), "left"),
    "thin": ("thinner ResNet-20", (9, -4), "left"),
    "resnet56": ("ResNet-56", (0, 9), "center"),
    "ghost_resnet56": ("Ghost-ResNet-56", (0, -17), "center"),
}
# Question -> pairs of rows: the first is compared with the second.
_COMPARED = {
    "parent": (("ghost_resnet20", "resnet20"), ("ghost_resnet56", "resnet56")),
    "thin": (("ghost_resnet20", "thin"), ("d3", "thin"), ("d5", "thin")),
    "deep": (("resnet56", "resnet20"),),
    "shallow": (("ghost_resnet56", "resnet20"),),
    "s_d": tuple((row, "ghost_resnet20") for row in ("s3", "s4", "s5", "d3", "d5")),
    "fit": (("fit_1", "random_1"), ("fit_3", "random_3"), ("fit_15", "ghost_resnet20")),
    "distilled": (("distilled", "ghost_resnet20"), ("resnet56", "ghost_resnet20")),
    "long": (
        ("resnet20_long", "resnet20"),
        ("ghost_resnet20_long", "ghost_resnet20"),
        ("ghost_resnet20_long", "resnet20_long"),
    ),
}
# Questions that are answered by whether the first row is as good as the second, or better.
_YES_OR_NO = ("parent", "thin", "distilled")
_CONFIDENCE = 0.95


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
        """Return the time of an evaluated batch, if it was measured."""
        rows = self.times.get(data, {}).get("milliseconds", {})
        return rows.get(_timed_as(row), {}).get(TIMED_BATCH)

    def step_milliseconds(self, data: str, row: str) -> float | None:
        """Return the time of a training step, if it was measured."""
        rows = self.times.get(data, {}).get("step_milliseconds", {})
        return rows.get(row if ROWS[row].needs else _timed_as(row))


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
            if result["epochs"]:
                # Of the last epoch: its weights are last.ckpt, which the other numbers are of.
                epochs = last_run(read_metrics(path.with_name(f"{path.stem}_metrics.csv")))
                result["top5"] = epochs[-1]["top5"]
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
    head += (f"Training, ms ({_step_images(proof, data)})", f"Inference, ms ({TIMED_BATCH} images)")
    rows = []
    for name, row in rows_of(data).items():
        runs = proof.runs(data, name)
        if row.question in ("fit", "quick"):
            continue
        rows.append(
            (
                row.title,
                row.epochs,
                f"{runs[0]['parameters'] / 1e6:.3f}" if runs else "–",
                f"{runs[0]['macs'] / 1e6:.1f}" if runs else "–",
                markdown.mean_and_spread(proof.top1(data, name)),
                ", ".join(f"{one['correct']:,}" for one in runs) or "–",
                _milliseconds(proof.step_milliseconds(data, name), "{:.0f}"),
                _milliseconds(proof.milliseconds(data, name), "{:.2f}"),
            )
        )
    images = {one["images"] for one in proof.records if one["data"] == data}
    note = "".join(f"\nRight answers of {count:,} test images.\n" for count in sorted(images))
    return markdown.table(head, rows) + note


def _step_images(proof: Proof, data: str) -> str:
    """Return "128 images", the size of the training steps that were timed."""
    size = proof.times.get(data, {}).get("step_images")
    return "a step" if size is None else f"{size} images"


def _milliseconds(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


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


def _timed_as(row: str) -> str:
    """Return the row that has the network of this one, and whose time is measured."""
    if ROWS[row].question == "distilled":
        return "ghost_resnet20"
    return next(name for name, other in ROWS.items() if other.recipe == ROWS[row].recipe)


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
    a, b = _compared(proof, data, one, other)
    if not a or not b or (question == "distilled" and not proof.runs(data, "distilled")):
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
        shares = [
            f"{first['macs'] / second['macs']:.2f} of the operations",
            f"{first['parameters'] / second['parameters']:.2f} of the parameters",
        ]
        for measured, words in (
            (proof.step_milliseconds, "the time of a training step"),
            (proof.milliseconds, "the time of an evaluated batch"),
        ):
            ours, theirs = measured(data, one), measured(data, other)
            shares += [f"{ours / theirs:.2f} of {words}"] if ours and theirs else []
        text += f", with {', '.join(shares[:-1])} and {shares[-1]}"
    if len(a) < 2 or len(b) < 2:
        counts = sorted({len(a), len(b)})
        seeds = f"one seed against the mean of {counts[-1]}" if len(counts) > 1 else "one seed each"
        return f"{text} ({seeds}: no confidence interval)."
    low, high = _confidence_interval(a, b)
    seeds = f"{len(a)} seeds each" if len(a) == len(b) else f"{len(a)} and {len(b)} seeds"
    text += f". The difference's {100 * _CONFIDENCE:g} % confidence interval, from {seeds}, is "
    text += f"{low:+.2f} to {high:+.2f} points."
    return f"{_answer(low, high)}{text}" if question in _YES_OR_NO else text


def _compared(
    proof: Proof, data: str, one: str, other: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the accuracies of two rows; a fitted start and a random one are of the same seed."""
    seed = 0 if ROWS[one].question == "fit" else None
    return proof.top1(data, one, seed), proof.top1(data, other, seed)


def _confidence_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return Welch's interval of the difference of two means, for unequal variances."""
    from scipy.stats import ttest_ind  # takes a second to import

    interval = ttest_ind(a, b, equal_var=False).confidence_interval(_CONFIDENCE)
    return float(interval.low), float(interval.high)


def _answer(low: float, high: float) -> str:
    """Answer a question that is true if the first row isn't below the second."""
    if low <= 0 <= high:
        return "**No clear difference.** "
    return "**Yes.** " if low > 0 else "**No.** "


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


def predictions(proof: Proof) -> str:
    """Return the table of what was predicted, and what came out."""
    head = ("Data", "Top-1 (%), or difference (points)", "Predicted", "Found")
    rows = [
        (DATA_SETS[one.data], _subject(one), one.expected, _found(proof, one))
        for one in PREDICTIONS
    ]
    return markdown.table(head, rows)


def _subject(prediction: Prediction) -> str:
    rows = [prediction.row, prediction.other] if prediction.other else [prediction.row]
    return " minus ".join(_title_with_epochs(row) for row in rows)


def _title_with_epochs(row: str) -> str:
    epochs = ROWS[row].epochs
    after = "" if epochs == EPOCHS else f" after {epochs} epoch{'s' * (epochs != 1)}"
    return f"{ROWS[row].title}{after}"


def _found(proof: Proof, prediction: Prediction) -> str:
    if not prediction.other:
        return markdown.mean_and_spread(proof.top1(prediction.data, prediction.row))
    a, b = _compared(proof, prediction.data, prediction.row, prediction.other)
    if not a or not b:
        return markdown.NOT_RUN
    return f"{statistics.mean(a) - statistics.mean(b):+.2f}"


def teacher_cost(proof: Proof) -> str:
    """Say what the teacher of the distilled rows costs."""
    lines = []
    for data in DATA_SETS:
        taught, alone = (proof.step_milliseconds(data, row) for row in ("distilled", PAIR[1]))
        runs = proof.runs(data, "distilled")
        if taught and alone and runs:
            memory = statistics.median(run["teacher"]["memory_bytes"] for run in runs)
            lines.append(
                f"On {DATA_SETS[data]} a step of {_step_images(proof, data)} takes {taught:.0f} ms "
                f"with the teacher, which evaluates each batch, and {alone:.0f} ms without: "
                f"{taught / alone:.1f} times as long. The teacher took {memory / 1e6:.0f} MB of "
                "the runs' memory.\n"
            )
    return "".join(lines) or "What the teacher costs hasn't been measured yet.\n"


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
                f"**{markdown.mean_and_spread(parent)} %**.{_others_text(proof, data)}\n"
            )
    if not lines:
        return "The accuracy of Ghost networks hasn't been measured yet.\n"
    seeds = sorted({len(proof.top1(data, row)) for data in DATA_SETS for row in PAIR} - {0})
    return (
        "[![Top-1 against operations](docs/proof_summary.png)](docs/proof.md)\n\n"
        f"{_CAPTION}\n\n"
        f"Measured on a CPU after {EPOCHS} epochs with s = 2 (one map in two is computed by an "
        "ordinary convolution) and d = 1 (a cheap operation is a factor per channel), mean and "
        f"standard deviation of {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])} ([all "
        f"networks, and what this doesn't show](docs/proof.md)):\n\n{''.join(lines)}"
    )


def _others_text(proof: Proof, data: str) -> str:
    """Return the results of the networks that the Ghost network has to be compared with."""
    thin, d5, text = proof.top1(data, "thin"), proof.top1(data, "d5"), ""
    if thin:
        text += (
            " A thinner ResNet-20 with as many operations as the Ghost network has "
            f"**{markdown.mean_and_spread(thin)} %**."
        )
    if d5:
        seeds = f" ({len(d5)} seed{'s' * (len(d5) > 1)})"
        text += (
            " With cheap kernels of 5x5 the Ghost network has "
            f"**{markdown.mean_and_spread(d5)} %**{seeds}."
        )
    return text


def recipe_summary(proof: Proof, recipe: str) -> dict[str, Any] | None:
    """Return what a recipe's own runs gave; None if there are none.

    Returns:
        ``top1``, ``top5``, ``hours``, ``epoch_seconds``, ``inference`` and ``context`` (devices
        and mode) as text, ``parameters``, ``seeds``, and ``published``: the weights that come with
        this package, or None.
    """
    runs = [one for one in proof.records if one["recipe"] == recipe and not one["options"]]
    runs = [one for one in runs if one["epochs"]]
    if not runs:
        return None
    ms = proof.milliseconds(runs[0]["data"], runs[0]["row"])
    return {
        "context": f"{runs[0]['device']}x{runs[0]['ranks']}-G",
        "top1": markdown.mean_and_spread([100 * one["correct"] / one["images"] for one in runs]),
        "top5": markdown.mean_and_spread([one["top5"] for one in runs]),
        "inference": "–" if ms is None else f"{ms:.2f} (batch {TIMED_BATCH})",
        "published": published_weights(runs),
        "hours": _training_time(runs, 3600, "{:.2f}"),
        "parameters": runs[0]["parameters"],
        "epoch_seconds": _training_time(runs, runs[0]["epochs"], "{:.1f}"),
        "seeds": len(runs),
    }


def published_weights(records: Sequence[Mapping[str, Any]]) -> Published | None:
    """Return the weights of one of these recorded runs, if they come with this package."""
    runs = {_identity(record) for record in records}
    found = (one for one in list_shipped() if _identity(one.card.training) in runs)
    return next(found, None)


def _identity(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a run has in common with no other, from its record or its weights' card."""
    return tuple(facts.get(key) for key in ("recipe", "seed", "commit", "date"))


@dataclass(frozen=True)
class _Point:
    row: str
    macs: float
    ms: float | None
    top1: list[float]
    colour: str
    marker: str


def _points(proof: Proof) -> dict[str, list[_Point]]:
    """Return data set -> the networks that were trained with the common budget."""
    found: dict[str, list[_Point]] = {}
    drawn = [name for name, row in ROWS.items() if row.is_compared]
    markers = dict(zip(drawn, _MARKERS))
    for data in DATA_SETS:
        for name in drawn:
            row, runs = ROWS[name], proof.runs(data, name)
            if not runs:
                continue
            colour = BLUE if row.title.startswith("Ghost") else GREY
            colour = ORANGE if row.question == "distilled" else colour
            macs, ms = runs[0]["macs"] / 1e6, proof.milliseconds(data, name)
            point = _Point(name, macs, ms, proof.top1(data, name), colour, markers[name])
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
    # README shows it at about this width, so the letters are as large as its text.
    figure = new_figure(0.6 + 4.2 * len(points), 3.5)
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    for (data, networks), axes in zip(points.items(), panels):
        shown = [(p.macs, p) for p in networks if p.row in _SUMMARY]
        _draw_panel(axes, shown, "multiply-adds of an image (millions)", size=11)
        axes.set_title(DATA_SETS[data], size=12, loc="left")
        axes.margins(x=0.18, y=0.2)
        for macs, point in shown:
            name, offset, side = _SUMMARY[point.row]
            axes.annotate(
                name,
                (macs, statistics.mean(point.top1)),
                xytext=offset,
                textcoords="offset points",
                ha=side,
                size=10,
                color=point.colour,
            )
    save_chart(figure, png, folder)


def _put_legend(axes: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put a legend to the right of a panel."""
    axes.legend(
        handles, names, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8
    )


def _draw_panel(
    axes: Any, points: Sequence[tuple[float, _Point]], label: str, size: int = 9
) -> None:
    from matplotlib import ticker  # new_figure says so where it isn't installed

    axes.set_xlabel(label, size=size)
    axes.set_ylabel("top-1 (%)", size=size)
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
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=_FEW_TICKS))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=size - 1, length=3, pad=3)  # 10 is a tick like 9
    for x, point in points:
        mean = statistics.mean(point.top1)
        bar = statistics.stdev(point.top1) if len(point.top1) > 1 else None
        axes.errorbar(
            x,
            mean,
            yerr=bar,
            fmt=point.marker,
            color=point.colour,
            label=ROWS[point.row].title,
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
    "proof_predictions": predictions,
    "proof_teacher": teacher_cost,
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
