"""Signals that ask a training to stop."""

from __future__ import annotations

import contextlib
import signal
import threading

from mindcv_ghost.launch.cluster import deliver_signals

__all__ = ["StopSignals", "exit_status"]

_SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)  # in ascending priority


def exit_status(number: int) -> int:
    """Return the exit status of a run that was stopped by a signal and saved its state.

    ``sbatch --signal=USR1@120`` sends SIGUSR1 before the job's time is up. The next job will resume
    the run, so this is no failure.

    >>> exit_status(signal.SIGTERM), exit_status(signal.SIGINT), exit_status(signal.SIGUSR1)
    (143, 130, 0)
    """
    return 0 if number == signal.SIGUSR1 else 128 + number


class StopSignals:
    """A context in which SIGTERM, SIGINT and SIGUSR1 are recorded and don't end the process.

    A second SIGINT ends the process at once; see ``launch.interrupts`` (one process) and
    ``launch.supervisor`` (ranks).

    Attributes:
        number: the signal that was received, 0 for none. If there are several: SIGTERM before
            SIGINT before SIGUSR1.
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
        self.number = max(self.number, number, key=(0, *_SIGNALS).index)
