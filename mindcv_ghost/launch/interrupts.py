"""Ctrl-C raises KeyboardInterrupt, whatever MindSpore does with SIGINT.

While a graph runs or compiles, MindSpore 2.8 installs a SIGINT handler of its own, which sends
SIGTERM to the process: Ctrl-C would look like a request to terminate. So every thread blocks
SIGINT (threads inherit the mask, so it has to be set before MindSpore is loaded), and one
thread waits for it and passes it to the interpreter.
"""

from __future__ import annotations

import _thread
import signal
import sys
import time

from mindcv_ghost.launch.processes import exit_now, start_thread

__all__ = ["handle_interrupts"]

# A terminal, a process group and a launcher may each deliver the same Ctrl-C.
_ONE_KEYSTROKE_SECONDS = 0.3


def handle_interrupts() -> None:
    """From now on, run Python's handler at the first SIGINT and end the process at the second.

    Call it in the main thread, once, before MindSpore is imported.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    start_thread(_wait)


def _wait() -> None:
    signal.sigwait([signal.SIGINT])
    first = time.monotonic()
    _thread.interrupt_main()
    while True:
        signal.sigwait([signal.SIGINT])
        if time.monotonic() - first > _ONE_KEYSTROKE_SECONDS:
            sys.stderr.write("interrupted twice\n")
            exit_now(130)
