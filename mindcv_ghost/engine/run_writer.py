"""Writes a training's files into the run folder, and survives a full disk.

At the end of an epoch these are written, in this order: the weights as ordinary checkpoints
(``last.ckpt``, ``best.ckpt``, the numbered ones), the row of ``metrics.csv``, and the state to
resume from. A kill between two of them loses nothing: the previous state is still there and holds
the whole text of ``metrics.csv``. The batches that are repeated from it give the same results,
unless something has changed that they depend on: ranks, settings, the masks of dropout. So a
``best.ckpt`` of the epoch that was lost is put aside when the run is resumed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np

from mindcv_ghost.engine.divergence import TrainingDiverged
from mindcv_ghost.engine.step_state import find_non_finite
from mindcv_ghost.errors import UserError
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.storage.atomic_file import write_bytes
from mindcv_ghost.storage.checkpoint_manager import CheckpointManager
from mindcv_ghost.storage.resume_folder import ResumeFolder

__all__ = ["DiskError", "RunWriter", "Writer", "check_space"]

_logger = logging.getLogger(__name__)
_MAX_FAILURES = 3


class DiskError(UserError):
    """The disk of the run folder can't be written."""


class Writer(Protocol):
    """What a trainer hands its results to."""

    events: EventsLog

    def end_epoch(
        self, parameters: Sequence[ms.Parameter], row: dict[str, Any], steps: int
    ) -> bool:
        """Take the weights and the metrics of an epoch; return whether it is the best so far."""

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict[str, Any]) -> bool:
        """Take a state to resume from; return whether it was saved."""


@dataclass
class RunWriter:
    """Writes a training's files; on rank 0 only.

    A save that fails is logged as a warning and training goes on. The third failure in a row ends
    the run.

    Args:
        metrics: ``metrics.csv``.
        events: TensorBoard's event files.
        checkpoints: weights that MindSpore and MindCV load.
        resume: states to resume from.
        facts: of the run, for every state.
        epochs: of the whole run.
    """

    metrics: MetricsLog
    events: EventsLog
    checkpoints: CheckpointManager
    resume: ResumeFolder
    facts: dict[str, Any]
    epochs: int
    _failures: int = field(default=0, init=False)
    _newest: Path | None = field(default=None, init=False)
    _problem: str = field(default="", init=False)
    _has_weights: bool = field(default=True, init=False)  # of the latest epoch

    def end_epoch(
        self, parameters: Sequence[ms.Parameter], row: dict[str, Any], steps: int
    ) -> bool:
        """Write the weights and the metrics of an epoch; :meth:`save_state` follows.

        Args:
            parameters: weights and averaged weights.
            row: of ``metrics.csv``.
            steps: batches in an epoch.

        Returns:
            Whether it is the best epoch so far.
        """
        best, self._has_weights = self.checkpoints.best, True
        try:
            self.checkpoints.save(parameters, row["epoch"], steps, row.get("top1"))
        except OSError as error:
            self._has_weights = False
            self._warn("the weights", error)
        try:
            self.metrics.append(**row)
        except OSError as error:
            self._warn("metrics.csv", error)
        return self.checkpoints.best != best  # also if what failed is a file after best.ckpt

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict[str, Any]) -> bool:
        """Write a state to resume from.

        The last epoch's isn't written without its weights: the run would pass for finished, and
        ``--resume auto`` would never write them.

        Args:
            arrays: from :meth:`StepState.snapshot`.
            progress: position, sums and best epoch so far; must fit into JSON.

        Returns:
            Whether this state and all files since the previous one were written.

        Raises:
            TrainingDiverged: if an array holds a NaN or an infinity; the previous state is worth
                more than this one.
            DiskError: if it is the third save in a row that fails.
        """
        name = find_non_finite(arrays)
        if name is not None:
            raise TrainingDiverged(
                f"{name} holds values that are no finite numbers; it wasn't saved. The earlier "
                "checkpoints are kept. Try a lower --lr, a longer --warmup_epochs or --clip_grad "
                "true."
            )
        facts = {
            **self.facts,
            **progress,
            "metrics": self.metrics.text,
            "checkpoints": self.checkpoints.facts(),
        }
        position = progress["position"]
        if self._has_weights or position["epoch"] < self.epochs:
            try:
                self._newest = self.resume.save(arrays, facts, position["epoch"], position["step"])
            except OSError as error:
                self._warn("the state to resume from", error)
        self._failures = self._failures + 1 if self._problem else 0
        if self._failures >= _MAX_FAILURES:
            raise DiskError(
                f"{self._problem} It is the {_MAX_FAILURES}rd save in a row that failed, so the "
                "run ends. Free some space or repair the folder, and continue with --resume auto."
            )
        saved, self._problem = not self._problem, ""
        return saved

    def restore(self, facts: dict[str, Any], path: Path) -> None:
        """Restore what is known of the files of a run that is resumed.

        Args:
            facts: of the state that it is resumed from.
            path: of that state.
        """
        self._newest = path
        elsewhere = path.parent.resolve() != self.resume.folder.resolve()
        origin = path.parent.parent if elsewhere else None
        self.checkpoints.restore(facts["checkpoints"], origin)
        self.metrics.restore(facts["metrics"])

    def give_up_after(self, path: Path) -> None:
        """Put aside the states that were written after the one that the run goes on from.

        They would be taken for its continuation.

        Args:
            path: of the state, in this run's folder.
        """
        for file in self.resume.give_up_after(path):
            _logger.info("the run goes on from %s; a later state is kept as %s", path.name, file)

    def _warn(self, what: str, error: OSError) -> None:
        reason = os.strerror(error.errno) if error.errno else str(error)
        newest = f"the newest state is {self._newest}" if self._newest else "there is no state yet"
        self._problem = f"{what} can't be saved in {self.checkpoints.folder} ({reason}); {newest}."
        _logger.warning("NOT SAVED: %s Training goes on.", self._problem)


def check_space(folder: Path, state_bytes: int, weight_bytes: int) -> None:
    """Raise an error unless a folder has space for two states and two checkpoints of the weights.

    Args:
        folder: the run folder.
        state_bytes: size of one state.
        weight_bytes: size of one checkpoint of the weights.

    Raises:
        DiskError: if it can't be written, or has less space.
    """
    probe = folder / ".probe"
    try:
        write_bytes(probe, b"x" * 4096)
        probe.unlink()
        status = os.statvfs(folder)
    except OSError as error:
        raise DiskError(
            f"the run folder {folder} can't be written ({error.strerror}). Give another one with "
            "--ckpt_save_dir."
        ) from error
    free = status.f_bavail * status.f_frsize
    needed = 2 * (state_bytes + weight_bytes)
    if free < needed:
        raise DiskError(
            f"the run folder {folder} has {free / 1e6:,.0f} MB of space left; two checkpoints "
            f"take {needed / 1e6:,.0f} MB. Free some, or give another folder with --ckpt_save_dir."
        )
