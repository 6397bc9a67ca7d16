"""What quantisation came to: the model, what was tried, and the report layer by layer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.quantisation.scheme import Scheme
from mindcv_ghost.storage.atomic_file import write_text

__all__ = ["LayerCost", "QuantisationError", "QuantisedModel", "Trial", "write_layer_report"]


@dataclass(frozen=True)
class LayerCost:
    """A row of the report.

    Args:
        layer: name of the node.
        weight: name of its weight.
        kind: what it is, as ``weighted_layers`` says.
        macs: multiply-adds for one image.
        sqnr_db: signal-to-noise ratio of the logits, in decibels, when this layer alone is int8.
        excluded: whether it stayed in float32.
    """

    layer: str
    weight: str
    kind: str
    macs: int
    sqnr_db: float
    excluded: bool


@dataclass(frozen=True)
class Trial:
    """A quantised model whose accuracy was measured.

    Args:
        method: how the ranges were taken from the calibration images.
        excluded: layers in float32.
        accuracy: top-1 in percent.
        sqnr_db: signal-to-noise ratio of its logits on calibration images, in decibels.
    """

    method: str
    excluded: int
    accuracy: float
    sqnr_db: float


@dataclass(frozen=True)
class QuantisedModel:
    """An int8 model that keeps its accuracy.

    Args:
        model: the model; its metadata has ``quantisation`` (:meth:`record`).
        scheme: the integers.
        runtime: that the scheme was chosen for.
        method: calibration method of the best trial.
        excluded: names of the nodes that stayed in float32, the costliest first.
        report: a row for each layer with weights, in the order of the graph.
        trials: in the order in which they were measured.
        accuracy_before: top-1 in percent of the float32 model.
        accuracy_after: likewise of this model.
    """

    model: onnx.ModelProto
    scheme: Scheme
    runtime: str
    method: str
    excluded: tuple[str, ...]
    report: tuple[LayerCost, ...]
    trials: tuple[Trial, ...]
    accuracy_before: float
    accuracy_after: float

    def record(self) -> dict[str, Any]:
        """Return what travels with the file, in ``ModelDescription.quantisation``."""
        return {
            "scheme": str(self.scheme),
            "runtime": self.runtime,
            "calibration": self.method,
            "excluded": list(self.excluded),
            "top1_float32": self.accuracy_before,
            "top1_int8": self.accuracy_after,
        }

    def table(self) -> str:
        """Return lines for a terminal: accuracy before and after."""
        return trials_table(self.accuracy_before, self.trials, len(self.report))


class QuantisationError(UserError):
    """int8 costs more accuracy than is allowed.

    Args:
        message: the whole story, with the table of what was tried.
        report: layer by layer.
    """

    def __init__(self, message: str, report: Sequence[LayerCost]) -> None:
        super().__init__(message)
        self.report = tuple(report)


def trials_table(before: float, trials: Sequence[Trial], layers: int) -> str:
    """Return lines for a terminal: the accuracy of float32, then of each trial.

    >>> print(trials_table(98.888, [Trial("MinMax", 2, 98.611, 20.51)], 106))
    model                     top-1 %   change   SQNR dB
    float32                     98.89                   
    int8 MinMax, 104 of 106     98.61    -0.28      20.5
    """
    lines = [f"{'model':<26}{'top-1 %':>7}{'change':>9}{'SQNR dB':>10}"]
    lines.append(f"{'float32':<26}{before:>7.2f}{'':>19}")
    for trial in trials:
        name = f"int8 {trial.method}, {layers - trial.excluded} of {layers}"
        change = trial.accuracy - before
        lines.append(f"{name:<26}{trial.accuracy:>7.2f}{change:>+9.2f}{trial.sqnr_db:>10.1f}")
    return "\n".join(lines)


def write_layer_report(path: Path, report: Sequence[LayerCost]) -> None:
    """Write the report, the costliest layer first: JSON if the name ends in .json, else CSV."""
    rows = [asdict(row) for row in sorted(report, key=lambda row: row.sqnr_db)]
    for row in rows:
        row["sqnr_db"] = round(row["sqnr_db"], 2)
    if path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=1) + "\n")
        return
    out = io.StringIO()
    writer = csv.DictWriter(out, list(LayerCost.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, out.getvalue())
