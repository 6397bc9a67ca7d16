"""Progress of an epoch: a bar on a terminal, plain lines elsewhere; on rank 0 only."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Progress", "format_duration", "make_bar"]

_REFRESH_SECONDS = 0.5


def format_duration(seconds: float | None) -> str:
    """Format a duration as hours:minutes:seconds; ``-`` if it isn't known.

    >>> format_duration(3723), format_duration(59.6), format_duration(200000), format_duration(None)
    ('1:02:03', '0:01:00', '55:33:20', '-')
    """
    if seconds is None or seconds != seconds or seconds == float("inf"):
        return "-"
    whole = int(round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """Shows the steps of one epoch: loss, learning rate, images/s and the run's remaining time.

    A terminal gets a tqdm bar on standard error, which is removed after the epoch. Otherwise there
    is a log line every ``log_interval`` steps and at the end of the epoch. The log file gets these
    lines in both cases. The speed leaves out the first step, which may compile the graph.

    Args:
        total_steps: steps in this epoch.
        epoch: this epoch, from 1.
        epochs: epochs of the whole run.
        enabled: False on every rank but 0: ``update`` then does nothing.
        done_steps: steps of this epoch that were done before the run was resumed.
        images_per_step: of all ranks together; 0: don't show images/s.
        log_interval: steps between lines.
        between_epochs_seconds: time per epoch for validation and saving, which the remaining time
            includes.
        terminal: True for the bar, False for lines; None: the bar if standard error is a terminal.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        total_steps: int,
        epoch: int,
        epochs: int,
        enabled: bool = True,
        *,
        done_steps: int = 0,
        images_per_step: int = 0,
        log_interval: int = 100,
        between_epochs_seconds: float = 0.0,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_steps, self.epoch, self.epochs = total_steps, epoch, epochs
        self.enabled = enabled
        self.step = done_steps
        self._images_per_step = images_per_step
        self._log_interval = max(1, log_interval)
        self._between_epochs_seconds = between_epochs_seconds
        self._clock = clock
        self._logger = logging.getLogger(__name__)
        self._first_step: int | None = None
        self._first_time = self._shown_time = 0.0
        self._bar: Any = None  # a tqdm
        if enabled and (sys.stderr.isatty() if terminal is None else terminal):
            self._bar = make_bar(total_steps, f"epoch {epoch}/{epochs}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, loss: float | Callable[[], float], lr: float | Callable[[], float]) -> None:
        """Count a finished step, and show it if it is time.

        Args:
            loss: of the latest step, or a function that returns it. The function is called only
                if the loss is shown, because fetching it waits for the device. It may not
                communicate with other ranks, because only rank 0 calls it.
            lr: the learning rate of the latest step, or a function that returns it.
        """
        if not self.enabled:
            return
        before, now = self.step, self._clock()
        self.step += 1
        if self._first_step is None:
            self._first_step, self._first_time = self.step, now
        last = self.step >= self.total_steps
        line_due = last or before // self._log_interval != self.step // self._log_interval
        bar_due = self._bar is not None and (last or now - self._shown_time >= _REFRESH_SECONDS)
        if not (line_due or bar_due):
            return
        values = self._values(_number(loss), _number(lr), now)
        if line_due:
            head = f"epoch {self.epoch}/{self.epochs} step {self.step}/{self.total_steps}"
            self._logger.info("%s %s", head, values, extra={"console": self._bar is None})
        if bar_due:
            self._shown_time = now
            self._bar.n = self.step
            self._bar.set_postfix_str(values)

    def close(self) -> None:
        """Remove the bar. It may be called twice."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _step_seconds(self, now: float) -> float | None:
        if self._first_step is None or self.step <= self._first_step or now <= self._first_time:
            return None
        return (now - self._first_time) / (self.step - self._first_step)

    def _values(self, loss: float, lr: float, now: float) -> str:
        seconds = self._step_seconds(now)
        parts = [f"loss {loss:.4f}", f"lr {lr:.4f}" if lr >= 1e-3 or lr == 0 else f"lr {lr:.2e}"]
        if self._images_per_step:
            speed = f"{self._images_per_step / seconds:.1f}" if seconds else "-"
            parts.append(f"{speed} images/s")
        left = None
        if seconds is not None:
            epochs_left = self.epochs - self.epoch
            steps_left = self.total_steps - self.step + epochs_left * self.total_steps
            left = steps_left * seconds + (epochs_left + 1) * self._between_epochs_seconds
        parts.append(f"eta {format_duration(left)}")
        return " ".join(parts)


def _number(value: float | Callable[[], float]) -> float:
    return float(value() if callable(value) else value)


def make_bar(total: int, label: str) -> Any:
    """Make a tqdm bar on standard error that is removed when it is closed.

    Args:
        total: steps until the end.
        label: stands before the bar.

    Raises:
        ImportError: if tqdm isn't installed.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        # 0: without tqdm's monitor thread, because the data pipeline forks this process.
        monitor_interval = 0

    # Under some launchers a terminal's size is 0 x 0. tqdm would then show nothing.
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        width = 0
    return Bar(
        total=total,
        desc=label,
        leave=False,
        dynamic_ncols=width > 0,
        ncols=None if width > 0 else 100,
        nrows=None if width > 0 else 24,
        mininterval=_REFRESH_SECONDS,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
    )
