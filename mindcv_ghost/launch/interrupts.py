"""SIGINT as the interpreter should see it, whatever MindSpore does with it.

While a graph runs or compiles, MindSpore 2.8 has a SIGINT handler of its own in place, which sends
SIGTERM to the process: Ctrl-C would look like a request to terminate. So every thread blocks
SIGINT (threads inherit that, which is why it has to be done before MindSpore is loaded), and one
thread waits for it and hands it to the interpreter.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time

from mindcv_ghost.launch.processes import leave_at_once

__all__ = ["take_interrupts"]

# A terminal, a process group and a launcher may each deliver one and the same Ctrl-C.
_ONE_PRESS_SECONDS = 0.3


def take_interrupts() -> None:
    """From now on, run Python's handler at the first SIGINT and end the process at the second.

    Call it in the main thread, once, before MindSpore is imported.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    threading.Thread(target=_wait, daemon=True, name="interrupts").start()


def _wait() -> None:
    signal.sigwait([signal.SIGINT])
    first = time.monotonic()
    _thread.interrupt_main()
    while True:
        signal.sigwait([signal.SIGINT])
        if time.monotonic() - first > _ONE_PRESS_SECONDS:
            sys.stderr.write("interrupted twice\n")
            leave_at_once(130)
