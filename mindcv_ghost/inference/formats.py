"""How predictions are printed: a table, a line of JSON for each picture, or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Callable, NamedTuple

from mindcv_ghost.inference.classifier import Prediction

__all__ = ["Format", "as_csv", "as_json", "as_table"]

_WIDEST = 40  # of a table's column; a longer name shifts its own row alone


class Format(NamedTuple):
    """A way to print predictions, picture by picture.

    Args:
        head: line before the first picture; "" for none.
        good: name of a picture and its classes -> lines.
        bad: name of a picture and why it has no classes -> a line; "" for none.
    """

    head: str
    good: Callable[[str, Sequence[Prediction]], str]
    bad: Callable[[str, str], str]


def as_table(names: Sequence[str], labels: Sequence[str]) -> Format:
    """Format as aligned columns: picture, class, probability; a line for each class.

    Args:
        names: of the pictures.
        labels: all class names, for the columns' widths; () if there are none.
    """
    first = _width(["image", *names])
    second = _width(["class", *labels])

    def good(name: str, predictions: Sequence[Prediction]) -> str:
        shown = [name, *[""] * len(predictions)]
        return "\n".join(
            f"{shown[k]:<{first}}  {p.label:<{second}}  {100 * p.probability:>9.2f} %"
            for k, p in enumerate(predictions)
        )

    return Format(f"{'image':<{first}}  {'class':<{second}}  probability", good, lambda *_: "")


def as_json() -> Format:
    """Format as one JSON object a line; a picture that can't be read has an ``error``."""

    def good(name: str, predictions: Sequence[Prediction]) -> str:
        rows = [
            {"label": p.label, "index": p.index, "probability": p.probability} for p in predictions
        ]
        return json.dumps({"image": name, "predictions": rows})

    return Format("", good, lambda name, error: json.dumps({"image": name, "error": error}))


def as_csv() -> Format:
    """Format as CSV, a line for each class of each picture."""

    def row(*values: object) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(values)
        return line.getvalue()

    def good(name: str, predictions: Sequence[Prediction]) -> str:
        return "\n".join(
            row(name, rank, p.label, p.index, f"{p.probability:.6g}")
            for rank, p in enumerate(predictions, 1)
        )

    return Format(row("image", "rank", "label", "index", "probability"), good, lambda *_: "")


def _width(words: Sequence[str]) -> int:
    return min(_WIDEST, max(map(len, words)))
