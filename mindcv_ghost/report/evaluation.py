"""The result of an evaluation, and how it is reported: JSON, one line, and files per class."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindcv_ghost.report.plots import plot_confusion, write_per_class

__all__ = ["Evaluation", "to_json", "to_line", "write_reports"]


@dataclass(frozen=True)
class Evaluation:
    """Result of one pass over a data set; accuracies are over all its images.

    Args:
        images: images of the set, unreadable ones included.
        correct: images whose label has the highest logit.
        correct_topk: images whose label is among the ``k`` highest logits.
        k: 5, or the number of classes if there are fewer.
        loss: mean cross-entropy of the readable images, in nats, without label smoothing, so that
            recipes can be compared.
        unreadable: images that couldn't be decoded; they count as wrong.
        seconds: wall time of the slowest rank, without compilation.
        compile_seconds: time that the first batch took for compilation.
        confusion: counts, shape (classes, classes); rows are labels, columns predictions.
        unreadable_per_class: counts, shape (classes,).
    """

    images: int
    correct: int
    correct_topk: int
    k: int
    loss: float
    unreadable: int
    seconds: float
    compile_seconds: float
    confusion: np.ndarray = field(repr=False)
    unreadable_per_class: np.ndarray = field(repr=False)

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * self.correct / self.images

    @property
    def topk(self) -> float:
        """Top-k accuracy in percent."""
        return 100.0 * self.correct_topk / self.images

    @property
    def images_per_second(self) -> float:
        """Speed over the whole set, all ranks together."""
        return self.images / self.seconds if self.seconds > 0 else float("inf")


def to_json(evaluation: Evaluation, facts: Mapping[str, Any]) -> str:
    """Format the last line of validate.py's standard output.

    Args:
        evaluation: the result.
        facts: what was validated: model, checkpoint, ema, num_classes, parameters, batch_size,
            steps, ranks, device.
    """
    keys = ("model", "checkpoint", "ema", "num_classes", "parameters", "batch_size")
    k, loss = evaluation.k, evaluation.loss
    return json.dumps(
        {
            **{key: facts[key] for key in keys},
            "top1": round(evaluation.top1, 4),
            f"top{k}": round(evaluation.topk, 4),
            "loss": loss if math.isfinite(loss) else None,  # JSON has neither NaN nor infinity
            "images": evaluation.images,
            "correct": evaluation.correct,
            f"correct_top{k}": evaluation.correct_topk,
            "unreadable": evaluation.unreadable,
            "images_per_second": round(evaluation.images_per_second, 2),
            "ms_per_step": round(1000 * evaluation.seconds / facts["steps"], 3),
            "compile_seconds": round(evaluation.compile_seconds, 3),
            "ranks": facts["ranks"],
            "device": facts["device"],
        }
    )


def to_line(evaluation: Evaluation) -> str:
    """Format the result as one line of text."""
    bad = evaluation.unreadable
    unreadable = f" ({bad} unreadable, counted as wrong)" if bad else ""
    return (
        f"top1 {evaluation.top1:.3f} %, top{evaluation.k} {evaluation.topk:.3f} %, loss "
        f"{evaluation.loss:.4f}, {evaluation.images:,} images{unreadable}, "
        f"{evaluation.images_per_second:.1f} images/s"
    )


def write_reports(
    evaluation: Evaluation,
    class_names: Sequence[str],
    per_class: str | None,
    confusion: str | None,
) -> None:
    """Write the files that were asked for.

    Args:
        evaluation: the result.
        class_names: in the order of the labels; () where the set has none.
        per_class: CSV with one row per class; empty or None to write none.
        confusion: PNG of the confusion matrix; empty or None to write none.
    """
    names = tuple(class_names) or tuple(str(i) for i in range(len(evaluation.confusion)))
    if per_class:
        write_per_class(per_class, names, evaluation.confusion, evaluation.unreadable_per_class)
    if confusion:
        plot_confusion(evaluation.confusion, names, confusion)
