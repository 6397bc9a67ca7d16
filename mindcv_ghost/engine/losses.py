"""The losses of an epoch: their mean, and what happens when they stop being numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from mindcv_ghost.errors import UserError

__all__ = ["LossWatch", "TrainingDiverged", "all_usable"]

_REMEMBERED = 10


def all_usable(values: np.ndarray | float) -> bool:
    """Whether no value is a NaN, an infinity, or what stands for one where arithmetic saturates.

    Ascend 910A puts the largest number of the data type in the place of an infinity, so that
    ``isfinite`` sees nothing wrong there (see ``overflow``).

    Args:
        values: of a floating-point data type; a float counts as float32.

    >>> all_usable(1e30), all_usable(float("nan")), all_usable(np.finfo(np.float32).max)
    (True, False, False)
    """
    values = np.asarray(values)
    dtype = np.float32 if values.dtype == np.float64 and values.ndim == 0 else values.dtype
    # A comparison with NaN is false.
    return bool(np.abs(values).max(initial=0) < np.finfo(dtype).max)


class TrainingDiverged(UserError):
    """The loss, the gradients or the weights are no longer numbers."""


@dataclass
class LossWatch:
    """Adds up an epoch's losses and stops the run when numbers go wrong for good.

    A loss or a gradient that isn't finite stops the run at once if its update was applied, because
    the weights are lost then. If the update was skipped, a dynamic loss scale gets its chance:
    falling scales don't count, and beyond that ``patience`` updates in a row may be bad.

    Args:
        patience: bad updates in a row after which to stop, where bad ones are skipped.
        skips: whether updates with gradients that aren't finite are skipped.

    Attributes:
        total, count: sum and number of the finite losses so far.
        overflows: updates skipped so far.
    """

    patience: int = 1
    skips: bool = False
    total: float = 0.0
    count: int = 0
    overflows: int = 0
    recent: deque = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _bad_in_a_row: int = 0
    _bad_loss: bool = False

    @property
    def mean(self) -> float:
        """Mean of the finite losses: those of skipped updates taught the network nothing."""
        return self.total / self.count if self.count else float("nan")

    def add_loss(self, loss: float) -> str | None:
        """Count one batch's loss.

        Returns:
            What has gone wrong for good, if so.
        """
        self.recent.append(loss)
        if all_usable(loss):
            self.total += loss
            self.count += 1
            return None
        self._bad_loss = True
        return None if self.skips else f"the loss became {loss}"

    def add_update(self, finite: bool, scale_can_fall: bool) -> str | None:
        """Count an update, after the losses of its batches.

        Args:
            finite: whether its gradients were.
            scale_can_fall: whether a lower loss scale may mend that.

        Returns:
            What has gone wrong for good, if so.
        """
        bad_loss, self._bad_loss = self._bad_loss, False
        if finite and not bad_loss:
            self._bad_in_a_row = 0
            return None
        if not finite:
            self.overflows += 1
            if not self.skips:
                return "the gradients became infinite or no numbers"
        if bad_loss or not scale_can_fall:
            self._bad_in_a_row += 1
        if self._bad_in_a_row < self.patience:
            return None
        return (
            f"{self._bad_in_a_row} updates in a row had a loss or gradients that are no numbers "
            "(nan_patience)"
        )
