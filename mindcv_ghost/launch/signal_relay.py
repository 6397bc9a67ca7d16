"""The process that the launcher started: it passes the launcher's signals on to the supervisor.

When launchers end a job, they signal this process and its process group, and leave no time to
save. (Measured: Open MPI 5.0.11 sends SIGTERM 0.25 s after its own SIGTERM or Ctrl-C, and SIGKILL
0.22 s later, whatever ``odls_base_sigkill_timeout`` says. msrun of MindSpore 2.8 sends SIGKILL at
once on Ctrl-C.) The supervisor and its rank therefore live in a session of their own, and the
supervisor decides how long they outlive this process.
"""

from __future__ import annotations

import contextlib
import os
import signal

from mindcv_ghost.launch.processes import adopt_orphans, children, kill

__all__ = ["STOP_SIGNALS", "fork_below_relay"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def fork_below_relay() -> int:
    """Fork. The parent becomes the signal relay; this returns the relay's number in the child.

    The child is in a session of its own. It has ``STOP_SIGNALS`` blocked, so that none arrives too
    early, and receives them by ``signal.sigwait``. The relay ends with the child's exit status.
    """
    relay = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOP_SIGNALS, signal.SIGCHLD])
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.setsid()
        return relay
    code = 1
    try:
        code = _relay(child)
    finally:  # never return into the caller's code
        os._exit(code)


def _relay(child: int) -> int:
    """Pass signals on until the child has ended; return its exit status."""
    # A supervisor that is killed can't end what its rank left behind.
    adopt_orphans()
    while True:
        # Not sigtimedwait: if this process is stopped (Ctrl-Z) and continued after the timeout,
        # CPython 3.11's returns a signal that nobody sent.
        number = signal.sigwait([*STOP_SIGNALS, signal.SIGCHLD])
        if number != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                os.kill(child, number)
        pid = -1
        while pid:  # any number of children may have ended; 0 if no more have
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == child:
                if os.WIFSIGNALED(status):
                    kill(children())
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
