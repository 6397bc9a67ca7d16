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
import socket
from collections.abc import Callable

from mindcv_ghost.launch.processes import adopt_orphans, children, kill

__all__ = ["STOP_SIGNALS", "SignalRelay", "fork_below_relay"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class SignalRelay:
    """The signal relay as its child sees it.

    Args:
        pid: the relay's process.
        sock: receives the relay's signals, a byte each, and is closed when the relay ends.
    """

    def __init__(self, pid: int, sock: socket.socket):
        self.pid, self._sock = pid, sock

    def listen(self, on_signal: Callable[[int], None], on_end: Callable[[], None]) -> None:
        """Call ``on_signal`` for each signal until the relay ends, then ``on_end``."""
        with contextlib.suppress(OSError):
            while received := self._sock.recv(1):
                on_signal(received[0])
        on_end()


def fork_below_relay() -> SignalRelay:
    """Fork. The parent becomes the signal relay; this returns in the child.

    The child is in a session of its own. It has ``STOP_SIGNALS`` blocked, so that none arrives too
    early, and receives them by ``signal.sigwait`` in a thread. The relay ends with the child's exit
    status.
    """
    relay_end, child_end = socket.socketpair()
    pid = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOP_SIGNALS, signal.SIGCHLD])
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        relay_end.close()
        os.setsid()
        return SignalRelay(pid, child_end)
    child_end.close()
    code = 1
    try:
        code = _relay(child, relay_end)
    finally:  # never return into the caller's code
        os._exit(code)


def _relay(child: int, sock: socket.socket) -> int:
    """Pass signals on until the child has ended; return its exit status."""
    # A supervisor that is killed can't end what its rank left behind.
    adopt_orphans()
    while True:
        # Not sigtimedwait: if this process is stopped (Ctrl-Z) and continued after the timeout,
        # CPython 3.11's returns a signal that nobody sent.
        number = signal.sigwait([*STOP_SIGNALS, signal.SIGCHLD])
        if number != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                sock.send(bytes([number]))
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
