"""Follows the losses of a run: the mean of an epoch, and whether the training has diverged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from mindcv_ghost.errors import UserError

__all__ = ["DivergenceMonitor", "TrainingDiverged", "all_finite"]

_RECENT = 10


def all_finite(values: np.ndarray | float) -> bool:
    """Tell whether no value is a NaN, an infinity, or the largest number of its data type.

    Ascend 910A writes the largest number instead of an infinity, which ``isfinite`` doesn't detect
    (see ``overflow``).

    Args:
        values: of a floating-point data type; a float counts as float32.

    >>> all_finite(1e30), all_finite(float("nan")), all_finite(np.finfo(np.float32).max)
    (True, False, False)
    """
    values = np.asarray(values)
    dtype = np.float32 if values.dtype == np.float64 and values.ndim == 0 else values.dtype
    # A comparison with NaN is false.
    return bool(np.abs(values).max(initial=0) < np.finfo(dtype).max)


class TrainingDiverged(UserError):
    """The loss, the gradients or the weights are no longer finite."""


@dataclass
class DivergenceMonitor:
    """Adds up an epoch's losses, and decides when the training has diverged.

    It lives as long as the run: bad updates in a row may be those of several epochs.

    If the update of a loss or gradient that isn't finite was applied, the weights are lost, and the
    training has diverged. If it was skipped, a lower loss scale may help: an update whose gradients
    overflow doesn't count as bad if it has lowered the dynamic loss scale. Otherwise the training
    has diverged after ``patience`` bad updates in a row.

    Args:
        patience: bad updates in a row after which to stop, if bad updates are skipped.
        skips: whether updates with gradients that aren't finite are skipped.
        total: sum of the finite losses so far.
        count: number of the finite losses so far.
        overflows: updates with gradients that weren't finite so far.
        recent: the latest losses, finite or not.
        parts: with a teacher, the sums of the hard and of the soft losses of the batches with a
            finite loss, and their number.
        bad_in_a_row: bad updates since the latest good one.
    """

    patience: int = 1
    skips: bool = False
    total: float = 0.0
    count: int = 0
    overflows: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    parts: tuple[float, float, int] = (0.0, 0.0, 0)
    bad_in_a_row: int = 0
    _bad_loss: bool = False

    def start_epoch(self) -> None:
        """Begin the sums of another epoch."""
        self.total, self.count, self.overflows = 0.0, 0, 0
        self.parts = (0.0, 0.0, 0)
        self.recent.clear()

    @property
    def mean(self) -> float:
        """Mean of the finite losses; NaN if there are none."""
        return self.total / self.count if self.count else float("nan")

    @property
    def part_means(self) -> tuple[float, float]:
        """Means of the hard and of the soft losses; NaN if there are none."""
        hard, soft, count = self.parts
        return (hard / count, soft / count) if count else (float("nan"), float("nan"))

    def add_loss(self, loss: float, hard: float = 0.0, soft: float | None = None) -> str | None:
        """Add the loss of one batch.

        Args:
            loss: of the batch.
            hard: its part that compares with labels, where there is a teacher.
            soft: its part that compares with the teacher's logits; None without a teacher.

        Returns:
            The reason if the training has diverged, else None.
        """
        self.recent.append(loss)
        if all_finite(loss):
            self.total += loss
            self.count += 1
            if soft is not None:
                self.parts = self.parts[0] + hard, self.parts[1] + soft, self.parts[2] + 1
            return None
        self._bad_loss = True
        return None if self.skips else f"the loss became {loss}"

    def add_update(self, finite: bool, scale_fell: bool) -> str | None:
        """Add an update, after the losses of its batches.

        Args:
            finite: whether its gradients were finite.
            scale_fell: whether it lowered the dynamic loss scale.

        Returns:
            The reason if the training has diverged, else None.
        """
        bad_loss, self._bad_loss = self._bad_loss, False
        if finite and not bad_loss:
            self.bad_in_a_row = 0
            return None
        if not finite:
            self.overflows += 1
            if not self.skips:
                return "the gradients became infinite or NaN"
        if bad_loss or not scale_fell:
            self.bad_in_a_row += 1
        if self.bad_in_a_row < self.patience:
            return None
        return (
            f"{self.bad_in_a_row} updates in a row had a loss or gradients that aren't finite "
            "(nan_patience)"
        )
