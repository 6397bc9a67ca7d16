"""Requests to stop that come as signals."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from mindcv_ghost.cluster import heed_signals

__all__ = ["StopSignals", "exit_status"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A terminal, a process group and a launcher may each deliver one and the same Ctrl-C.
_ONE_PRESS_SECONDS = 0.3


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

    A second SIGINT ends it at once.

    Args:
        guarded: whether this is one of several ranks, whose guards see to the second SIGINT.

    Attributes:
        number: the signal that came, 0 for none; SIGTERM outweighs SIGINT, that SIGUSR1.
    """

    def __init__(self, guarded: bool = False) -> None:
        self.guarded = guarded
        self.number = 0
        self._interrupted = 0.0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.signal(number, self._on_signal)
                self._stack.callback(signal.signal, number, before)
            self._stack.enter_context(heed_signals())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def poll(self) -> int:
        """The signal that came, 0 for none. Call it between steps.

        From then on the kernel deals with a second SIGINT, whatever native code is running.
        """
        if self._interrupted and not self.guarded and self._second_press():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return self.number

    def _second_press(self) -> bool:
        return time.monotonic() - self._interrupted > _ONE_PRESS_SECONDS

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT and not self.guarded:
            if self._interrupted and self._second_press():
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            self._interrupted = self._interrupted or time.monotonic()
        weights = (0, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
        self.number = max(self.number, number, key=weights.index)
