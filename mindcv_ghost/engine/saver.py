"""What a run leaves on the disk while it trains, and what happens if the disk doesn't take it.

At the end of an epoch, in this order: the weights as plain checkpoints (``last.ckpt``,
``best.ckpt``, the numbered ones), the row of ``metrics.csv``, and last the state that a resumed run
goes on from. A kill between two of them loses nothing: the state before is still there, holds the
whole text of ``metrics.csv``, and what is repeated from it comes out the same.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.engine.live_state import not_finite
from mindcv_ghost.engine.losses import TrainingDiverged
from mindcv_ghost.errors import UserError
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.storage.atomic_file import write_bytes
from mindcv_ghost.storage.checkpoint import CheckpointKeeper
from mindcv_ghost.storage.resume_files import ResumeFiles

__all__ = ["DiskError", "Saver", "check_space"]

_logger = logging.getLogger(__name__)
_FAILURES = 3


class DiskError(UserError):
    """The run folder's disk doesn't take what has to be written."""


@dataclass
class Saver:
    """Rank 0's hand on the disk.

    A save that fails is told loudly and training goes on; the third in a row ends the run.

    Args:
        metrics: ``metrics.csv``.
        events: TensorBoard's.
        checkpoints: weights that MindSpore and MindCV load.
        resume: states to continue from.
        facts: of the run, to be kept in every state.
    """

    metrics: MetricsLog
    events: EventsLog
    checkpoints: CheckpointKeeper
    resume: ResumeFiles
    facts: dict
    failures: int = 0
    newest: Path | None = None
    _trouble: str = ""

    def end_epoch(self, parameters, row: dict, steps: int) -> bool:
        """Save the weights and the row of an epoch; the state comes with :meth:`save_state`.

        Args:
            parameters: weights and averages.
            row: of ``metrics.csv``.
            steps: batches an epoch.

        Returns:
            Whether it is the best epoch so far.
        """
        is_best = False
        try:
            is_best = self.checkpoints.save(parameters, row["epoch"], steps, row.get("top1"))
        except OSError as error:
            self._warn("the weights", error)
        try:
            self.metrics.append(**row)
        except OSError as error:
            self._warn("metrics.csv", error)
        return is_best

    def save_state(self, arrays: dict, progress: dict) -> bool:
        """Save a state.

        Args:
            arrays: from :meth:`LiveState.take`.
            progress: how far the run has come; JSON can hold it.

        Returns:
            Whether the disk took it.

        Raises:
            TrainingDiverged: if a NaN or an infinity is among the arrays: the files before are
                worth more than this one.
            DiskError: if it is the third save in a row that fails.
        """
        name = not_finite(arrays)
        if name is not None:
            raise TrainingDiverged(
                f"{name} holds values that are no finite numbers; it wasn't saved. The checkpoints "
                "before stand. Try a lower --lr, a longer --warmup_epochs or --clip_grad true."
            )
        facts = {
            **self.facts,
            **progress,
            "metrics": self.metrics.text,
            "checkpoints": self.checkpoints.facts(),
        }
        try:
            place = progress["position"]
            self.newest = self.resume.save(arrays, facts, place["epoch"], place["step"])
        except OSError as error:
            self._warn("the state to resume from", error)
        self.failures = self.failures + 1 if self._trouble else 0
        if self.failures >= _FAILURES:
            raise DiskError(
                f"{self._trouble} It is the {_FAILURES}rd save in a row that failed, so the run "
                "ends. Free some space or mend the folder, and continue with --resume auto."
            )
        saved, self._trouble = not self._trouble, ""
        return saved

    def take_up(self, facts: dict, path: Path) -> None:
        """Go on where a state was saved."""
        self.newest = path
        self.checkpoints.take_up(facts["checkpoints"])
        self.metrics.restore(facts["metrics"])

    def _warn(self, what: str, error: OSError) -> None:
        reason = os.strerror(error.errno) if error.errno else str(error)
        stands = f"{self.newest} stands" if self.newest else "there is none from before"
        self._trouble = f"{what} can't be saved in {self.checkpoints.folder} ({reason}); {stands}."
        _logger.warning("NOT SAVED: %s Training goes on.", self._trouble)


def check_space(folder: Path, state_bytes: int, weight_bytes: int) -> None:
    """Refuse a folder that doesn't take two states and the weights beside them.

    Args:
        folder: the run folder.
        state_bytes: of one state.
        weight_bytes: of one checkpoint of the weights.

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
