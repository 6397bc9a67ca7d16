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

__all__ = ["handle_interrupts", "tell_interrupt"]

# A terminal, a process group and a launcher may each deliver the same Ctrl-C.
_ONE_KEYSTROKE_SECONDS = 0.3
_STATUS = 128 + signal.SIGINT


def handle_interrupts() -> None:
    """From now on, run Python's handler at the first SIGINT and end the process at the second.

    Call it in the main thread, once, before MindSpore is imported.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    start_thread(_wait)


def tell_interrupt() -> int:
    """Say that Ctrl-C has ended the command; return the exit status.

    It doesn't return if MindSpore has been interrupted in the midst of its import: Python's normal
    exit then runs exit functions of MindSpore's that abort the process (2.8).
    """
    sys.stderr.write("interrupted\n")
    # Python forgets a package whose import fails, but not the modules that it has imported.
    if "mindspore" not in sys.modules and any(n.startswith("mindspore.") for n in sys.modules):
        exit_now(_STATUS)
    return _STATUS


def _wait() -> None:
    signal.sigwait([signal.SIGINT])
    first = time.monotonic()
    _thread.interrupt_main()
    while True:
        signal.sigwait([signal.SIGINT])
        if time.monotonic() - first > _ONE_KEYSTROKE_SECONDS:
            sys.stderr.write("interrupted twice\n")
            exit_now(_STATUS)
