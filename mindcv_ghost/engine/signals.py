"""Requests to stop that come as signals."""

from __future__ import annotations

import contextlib
import signal
import threading

from mindcv_ghost.launch.cluster import deliver_signals

__all__ = ["StopSignals", "exit_status"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def exit_status(number: int) -> int:
    """The exit status of a run that a signal stopped in order.

    SIGUSR1 is what ``sbatch --signal=USR1@120`` sends before the time is up: the run will be
    continued by the next job, which is no failure.

    >>> exit_status(signal.SIGTERM), exit_status(signal.SIGINT), exit_status(signal.SIGUSR1)
    (143, 130, 0)
    """
    return 0 if number == signal.SIGUSR1 else 128 + number


class StopSignals:
    """While entered, SIGTERM, SIGINT and SIGUSR1 are remembered instead of ending the process.

    A second SIGINT ends it at once; see ``launch.interrupts`` (one process)
    and ``launch.supervisor`` (ranks).

    Attributes:
        number: the signal that came, 0 for none; SIGTERM outweighs SIGINT, that SIGUSR1.
    """

    def __init__(self) -> None:
        self.number = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.signal(number, self._on_signal)
                self._stack.callback(signal.signal, number, before)
            self._stack.enter_context(deliver_signals())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        weights = (0, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
        self.number = max(self.number, number, key=weights.index)
