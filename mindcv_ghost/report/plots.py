"""Pictures of a run: learning curve and confusion matrix. Also the table of classes (CSV).

    python -m mindcv_ghost.report.plots runs/demo/metrics.csv learning_curve.png

matplotlib is optional (the ``demo`` extra). The colours are Okabe and Ito's, which colour-blind
people can tell apart. Lines also differ in style and marker.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.metrics import last_run, read_metrics
from mindcv_ghost.storage.atomic_file import write_bytes, write_text

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "main",
    "new_figure",
    "plot_confusion",
    "plot_learning_curve",
    "save_png",
    "write_per_class",
]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"

# With more classes the names or the numbers of a confusion matrix would overlap.
_MAX_NAMED, _MAX_NUMBERED = 40, 15


def plot_learning_curve(metrics_csv: str | os.PathLike, png: str | os.PathLike) -> None:
    """Draw loss and accuracy against the epoch.

    Args:
        metrics_csv: a run's ``metrics.csv``. If it holds several runs, the last is drawn.
        png: the picture to write.

    Raises:
        ReportError: if the metrics can't be read or hold no epoch, the picture can't be written, or
            matplotlib isn't installed.
    """
    rows = last_run(read_metrics(metrics_csv))
    if not rows:
        raise ReportError(f"{metrics_csv} holds no epoch yet: there is no curve to draw")
    figure = new_figure(9.0, 4.0)
    losses, accuracies = figure.subplots(1, 2)
    _line(losses, rows, "loss", "training", BLUE, "o-")
    _line(losses, rows, "val_loss", "validation", ORANGE, "s--")
    losses.set(xlabel="epoch", ylabel="loss")
    _use_log_scale_if_wide(losses)
    topk = [name for name in rows[0] if name.startswith("top") and name != "top1"]
    _line(accuracies, rows, "top1", "top-1", BLUE, "o-")
    for name in topk:
        _line(accuracies, rows, name, f"top-{name[3:]}", ORANGE, "s--")
    accuracies.set(xlabel="epoch", ylabel="validation accuracy (%)")
    best = max((r for r in rows if r["top1"] is not None), key=lambda r: r["top1"], default=None)
    if best is not None:
        accuracies.set_title(f"best top-1: {best['top1']:.2f} % (epoch {best['epoch']})", size=10)
    for axes in (losses, accuracies):
        _finish_axes(axes)
    try:
        save_png(figure, png)
    except OSError as problem:
        raise ReportError(f"{png} can't be written: {problem.strerror or problem}") from None


def plot_confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray,
    class_names: Sequence[str],
    png: str | os.PathLike,
) -> None:
    """Draw a confusion matrix, coloured by the share of each true class.

    Args:
        matrix: counts, ``(classes, classes)``; a row is a true class, a column a predicted one.
        class_names: one per class; empty: the classes' numbers are drawn instead.
        png: the picture to write. It has names for up to 40 classes and counts for up to 15. For
            more than 40 classes it lists the most frequent confusions.

    Raises:
        ValueError: if the matrix isn't square, or the number of names isn't that of the classes.
        ReportError: if matplotlib isn't installed.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"a confusion matrix is square, got the shape {counts.shape}")
    names = [str(name) for name in class_names] or [str(i) for i in range(len(counts))]
    if len(names) != len(counts):
        raise ValueError(f"{len(names)} class names for {len(counts)} classes")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(counts) <= _MAX_NAMED:
        size = min(12.0, 4.5 + 0.2 * len(counts))
        figure = new_figure(size, size * 0.9)
        axes = figure.subplots()
        image = _draw_cells(axes, shares)
        _label_colour_bar(figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03))
        _label_ticks(axes, names)
    else:
        figure = new_figure(12.0, 8.0)
        axes, side = figure.subplots(1, 2, width_ratios=(8, 4))
        _draw_cells(axes, shares)
        _list_worst(axes, side, counts, shares, names)
    accuracy = 100 * np.trace(counts) / max(counts.sum(), 1)
    right = f"{np.trace(counts):,} of {counts.sum():,} images right ({accuracy:.2f} %)"
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(right, size=10)
    if len(counts) <= _MAX_NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, f"{count}" if count else "", ha="center", va="center",
                      color=colour, size=9)  # fmt: skip
    save_png(figure, png)


def write_per_class(
    path: str | os.PathLike,
    class_names: Sequence[str],
    confusion: Sequence[Sequence[int]] | np.ndarray,
    unreadable: Sequence[int] | np.ndarray | None = None,
) -> None:
    """Write a CSV with a row per class: ``class, images, correct, top1, unreadable``.

    Args:
        path: the CSV file to write.
        class_names: one per class.
        confusion: counts of the readable images, ``(classes, classes)``; a row is a true class.
        unreadable: number of unreadable images per class, ``(classes,)``. They are included in
            ``images`` and count as wrong. None: there are none.

    Raises:
        ValueError: if the columns differ in length.
    """
    confusion = np.asarray(confusion)
    bad = np.zeros(len(confusion), int) if unreadable is None else np.asarray(unreadable)
    if not len(class_names) == len(confusion) == len(bad):
        lengths = (len(class_names), len(confusion), len(bad))
        raise ValueError(f"names, confusion and unreadable of {lengths} classes")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("class", "images", "correct", "top1", "unreadable"))
    images = confusion.sum(axis=1) + bad
    for name, total, correct, broken in zip(class_names, images, confusion.diagonal(), bad):
        top1 = f"{100 * correct / total:.2f}" if total else ""
        writer.writerow((name, total, correct, top1, broken))
    # A folder's name needn't be UTF-8.
    write_text(path, out.getvalue().encode("utf-8", "backslashreplace").decode())


def new_figure(width: float, height: float) -> Any:
    """Return an empty white figure; matplotlib's global state isn't used.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        ReportError: if matplotlib isn't installed.
    """
    # At its first use on a machine it warns, after five seconds, that it lists the fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError(
            f"drawing needs matplotlib, which can't be imported ({error}): "
            "pip install 'mindcv-ghost[demo]' or pip install matplotlib"
        ) from None
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, png: str | os.PathLike, dpi: int = 120) -> None:
    """Write a figure atomically. Equal figures give equal files.

    The file has a palette of 256 colours, which looks the same and takes a third of the bytes.

    Args:
        figure: a figure of :func:`new_figure`.
        png: the picture to write; its folder is created.
        dpi: dots per inch.
    """
    from PIL import Image  # matplotlib needs Pillow

    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, bbox_inches="tight")
    image = Image.open(out).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, format="png", optimize=True)
    Path(png).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(png, out.getvalue())


def _draw_cells(axes: Any, shares: np.ndarray) -> Any:
    # The square root makes a cell of 1 % visible beside one of 100 %.
    return axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")


def _label_colour_bar(bar: Any) -> None:
    marks = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
    bar.set_ticks([mark**0.5 for mark in marks], labels=[f"{mark:.0%}" for mark in marks])
    bar.set_label("share of the true class's images")


def _label_ticks(axes: Any, names: list[str]) -> None:
    upright = max(len(name) for name in names) <= max(2, 24 // len(names))
    axes.set_xticks(range(len(names)), labels=names, rotation=0 if upright else 90)
    axes.set_yticks(range(len(names)), labels=names)


def _list_worst(
    axes: Any, side: Any, counts: np.ndarray, shares: np.ndarray, names: list[str]
) -> None:
    """Mark and list the worst confusions: with a thousand classes a cell is only one pixel."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0.0, shares)
    rows, columns = np.nonzero(wrong > 0.1)
    axes.scatter(columns, rows, s=30 * wrong[rows, columns], c=ORANGE, linewidths=0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:30]
    lines = ["most often taken for another", "(a dot: more than 10 % of a class)", ""]
    for row, column in zip(*np.unravel_index(worst, counts.shape)):
        if wrong[row, column] > 0:
            pair = f"{names[row][:20]} → {names[column][:20]}"
            lines.append(f"{counts[row, column]} of {counts[row].sum()}  {pair}")
    side.axis("off")
    side.text(0, 1, "\n".join(lines), transform=side.transAxes, va="top", size=9)


def _line(axes: Any, rows: list[dict], column: str, label: str, colour: str, style: str) -> None:
    points = [(row["epoch"], row[column]) for row in rows if row[column] is not None]
    if not points:
        return
    # At most 20 markers: more would hide the line of a long run.
    every = max(1, len(points) // 20)
    epochs, values = zip(*points)
    axes.plot(
        epochs, values, style, label=label, color=colour, lw=1.8, markersize=4, markevery=every
    )


def _use_log_scale_if_wide(axes: Any) -> None:
    """Make the vertical axis logarithmic if the largest value is above 30 times the smallest.

    Until BN's running statistics have settled, the validation loss can be a thousand times that of
    later epochs, which a linear axis would draw as a flat line.
    """
    values = np.concatenate([line.get_ydata() for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")


def _finish_axes(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Draw a learning curve from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mindcv_ghost.report.plots")
    parser.add_argument("source", help="metrics.csv of a run folder")
    parser.add_argument("png", help="where the picture goes")
    arguments = parser.parse_args(argv)
    plot_learning_curve(arguments.source, arguments.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
