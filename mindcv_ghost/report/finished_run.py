"""What the folder of a finished run says of it, read and checked before anything slow happens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.metrics import read_metrics

__all__ = ["METRICS", "RUN", "FinishedRun", "read_finished_run"]

METRICS, RUN = "metrics.csv", "run.json"
_FILES = ("config.yaml", RUN, METRICS)


@dataclass(frozen=True)
class FinishedRun:
    """The record of a run.

    Args:
        folder: the run folder.
        facts: of ``run.json``.
        metrics: the bytes of ``metrics.csv``.
        rows: its epochs, as :func:`~mindcv_ghost.report.metrics.read_metrics` returns them.
    """

    folder: Path
    facts: dict[str, Any]
    metrics: bytes
    rows: list[dict]

    @property
    def was_validated(self) -> bool:
        """Whether an epoch was validated: such a run has a ``best.ckpt``."""
        # A run that was resumed in another folder may have been validated before.
        has_best = self.facts.get("best_epoch") is not None
        return has_best or any(row.get("top1") is not None for row in self.rows)


def read_finished_run(folder: Path) -> FinishedRun:
    """Read a run folder's record.

    Raises:
        UserError: if it isn't a run's folder, or a file of the record is missing, damaged or can't
            be read.
    """
    try:
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: there is no such run folder (--ckpt_save_dir of a training)"
            )
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {', '.join(missing)}: give the run folder (ckpt_save_dir) of a "
                "training"
            )
        metrics = (folder / METRICS).read_bytes()
        rows = read_metrics(folder / METRICS)
        return FinishedRun(folder, read_json(folder / RUN), metrics, rows)
    except OSError as problem:
        raise CheckpointError(
            f"{problem.filename or folder} can't be read ({problem.strerror or problem}): a run's "
            "folder and its files have to be readable"
        ) from problem
