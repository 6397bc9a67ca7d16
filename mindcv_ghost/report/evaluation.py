"""What validate.py tells of its result: a line of JSON, a table by class, a confusion matrix."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mindcv_ghost.report.plots import plot_confusion, write_per_class

__all__ = ["Result", "to_json", "write_reports"]


class Result(Protocol):
    """A validation's counts; accuracies are in percent."""

    images: int
    correct: int
    correct_topk: int
    k: int
    loss: float
    unreadable: int
    seconds: float
    compile_seconds: float
    confusion: np.ndarray
    unreadable_per_class: np.ndarray
    top1: float
    topk: float
    images_per_second: float


def to_json(result: Result, facts: dict) -> str:
    """Compose the line that ends validate.py's standard output.

    Args:
        result: of the validation.
        facts: what was validated: model, checkpoint, ema, num_classes, parameters, batch_size,
            steps, ranks, device.
    """
    shared = ("model", "checkpoint", "ema", "num_classes", "parameters", "batch_size")
    return json.dumps(
        {
            **{key: facts[key] for key in shared},
            "top1": round(result.top1, 4),
            f"top{result.k}": round(result.topk, 4),
            # JSON has no word for what isn't a number.
            "loss": result.loss if math.isfinite(result.loss) else None,
            "images": result.images,
            "correct": result.correct,
            f"correct_top{result.k}": result.correct_topk,
            "unreadable": result.unreadable,
            "images_per_second": round(result.images_per_second, 2),
            "ms_per_step": round(1000 * result.seconds / facts["steps"], 3),
            "compile_seconds": round(result.compile_seconds, 3),
            "ranks": facts["ranks"],
            "device": facts["device"],
        }
    )


def to_line(result: Result) -> str:
    """Say the result in words."""
    unreadable = f" ({result.unreadable} unreadable, counted as wrong)" if result.unreadable else ""
    return (
        f"top1 {result.top1:.3f} %, top{result.k} {result.topk:.3f} %, loss {result.loss:.4f}, "
        f"{result.images:,} images{unreadable}, {result.images_per_second:.1f} images/s"
    )


def write_reports(
    result: Result, class_names: Sequence[str], per_class: str | None, confusion: str | None
) -> None:
    """Write the table and the picture that were asked for.

    Args:
        result: of the validation.
        class_names: in the order of the labels; () where the set has none.
        per_class: CSV to write, or nothing.
        confusion: PNG to write, or nothing.
    """
    names = tuple(class_names) or tuple(str(i) for i in range(len(result.confusion)))
    if per_class:
        write_per_class(per_class, names, result.confusion, result.unreadable_per_class)
    if confusion:
        plot_confusion(result.confusion, names, confusion)
