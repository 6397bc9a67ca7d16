"""Saves a run's weights after each epoch and decides which of its checkpoints stay."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_ghost.storage.atomic_file import copy_file, link_or_copy
from mindcv_ghost.storage.checkpoint import save_weights
from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.storage.run_folder import is_numbered_checkpoint

if TYPE_CHECKING:
    import mindspore as ms

__all__ = ["CheckpointManager"]

_logger = logging.getLogger(__name__)


class CheckpointManager:
    """Saves the weights after an epoch, and removes checkpoints that are no longer wanted.

    After each call of :meth:`save` the folder holds ``last.ckpt``, ``best.ckpt`` (highest top-1 so
    far; of equals the earlier) and up to ``keep_max`` files ``<model>-<epoch>_<steps>.ckpt``, which
    are MindCV's names.

    Args:
        folder: the run folder; it must exist.
        model: name of the model.
        keep_max: how many numbered files stay.
        policy: ``latest_k``, ``top_k`` (by top-1), or None: all of them stay.
        interval: epochs between numbered files.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        model: str,
        keep_max: int,
        policy: str | None,
        interval: int,
    ) -> None:
        self.folder = Path(folder)
        self.model = model
        self.keep_max = keep_max
        self.policy = policy
        self.interval = interval
        self.best: float | None = None
        self._best_sha256: str | None = None
        self._kept: list[tuple[float, Path]] = []

    def save(
        self, parameters: Sequence[ms.Parameter], epoch: int, steps: int, top1: float | None
    ) -> bool:
        """Save after an epoch.

        Args:
            parameters: what to save.
            epoch: number of the epoch that ended, from 1.
            steps: steps per epoch.
            top1: accuracy in percent, None if it wasn't measured.

        Returns:
            Whether this is the best epoch so far.
        """
        last = self.folder / "last.ckpt"
        save_weights(parameters, last)
        is_best = top1 is not None and (self.best is None or top1 > self.best)
        if is_best:
            digest = sha256_of(last)
            link_or_copy(last, self.folder / "best.ckpt")
            self.best, self._best_sha256 = top1, digest
        score = top1 if self.policy == "top_k" else epoch
        if epoch % self.interval == 0 and score is not None:
            path = self.folder / f"{self.model}-{epoch}_{steps}.ckpt"
            link_or_copy(last, path)
            self._kept.append((score, path))
            self._remove_surplus()
        return is_best

    def facts(self) -> dict:
        """Return what :meth:`restore` needs in a resumed run, as values that JSON can hold."""
        kept = [[score, path.name] for score, path in self._kept]
        return {"best": self.best, "best_sha256": self._best_sha256, "kept": kept}

    def restore(self, facts: dict, origin: Path | None = None) -> None:
        """Continue from what :meth:`facts` returned in an earlier process.

        ``best.ckpt`` counts only if it is the one that the facts tell of. It may be of an epoch
        that was lost with its process, or that the run doesn't go on from.

        Args:
            facts: of that process.
            origin: its run folder, if it was another one: its best checkpoint is copied.
        """
        self.best, self._best_sha256 = facts["best"], facts["best_sha256"]
        if origin is None:
            self._check_best()
        elif self.best is not None:
            self._take_over_best(origin / "best.ckpt")
        # Only names of this form are ever deleted, whatever the facts say.
        self._kept = [
            (float(score), self.folder / name)
            for score, name in facts["kept"]
            if is_numbered_checkpoint(name, self.model) and (self.folder / name).is_file()
        ]

    def _check_best(self) -> None:
        """Put ``best.ckpt`` aside if it is of an epoch that the run doesn't have."""
        file = self.folder / "best.ckpt"
        problem = self._problem_of(file)
        if not problem or (self.best is None and not file.exists()):
            return
        if file.exists():
            problem += f" and is kept as {file.replace(file.with_name('best.ckpt.given_up')).name}"
        _logger.warning("%s %s: the best epoch from here on takes its place", file, problem)
        self.best = self._best_sha256 = None

    def _take_over_best(self, file: Path) -> None:
        """Copy another folder's best checkpoint, which may be of an epoch that this run hasn't."""
        problem = self._problem_of(file)
        if not problem:
            copy_file(file, self.folder / "best.ckpt")  # a link would share its permissions
            return
        _logger.warning(
            "%s %s: the run goes on without a best.ckpt until an epoch is better than %.2f %%",
            file,
            problem,
            self.best,
        )

    def _problem_of(self, file: Path) -> str:
        """Say why a file isn't the best checkpoint that the run knows of; "" if it is."""
        if not file.is_file():
            return "is gone"
        same = sha256_of(file) == self._best_sha256
        return "" if same else "isn't of the best epoch until this state"

    def _remove_surplus(self) -> None:
        while self.policy is not None and len(self._kept) > self.keep_max:
            # Remove the lowest score; of equals the newest, so that the earliest stays, as for
            # best.ckpt.
            worst = min(reversed(self._kept), key=lambda scored: scored[0])
            self._kept.remove(worst)
            with contextlib.suppress(FileNotFoundError):
                worst[1].unlink()
