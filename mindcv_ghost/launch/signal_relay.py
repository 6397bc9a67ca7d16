"""The process that the launcher started: it stands in front of the guard, and passes on.

What launchers do to end a job, they do to this process and its process group, and they give no
time to save (measured: Open MPI 5.0.11 sends SIGTERM 0.25 s after its own SIGTERM or Ctrl-C, and
SIGKILL 0.22 s later, whatever ``odls_base_sigkill_timeout`` says; msrun of MindSpore 2.8 sends
SIGKILL at once on Ctrl-C). The guard and its rank therefore live in a session of their own, and
decide for themselves how long they outlive this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable

from mindcv_ghost.launch.processes import adopt_orphans, children

__all__ = ["STOP_SIGNALS", "Front", "spawn"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Front:
    """What the guard knows of the process before it.

    Args:
        pid: that process.
        sock: brings the signals it got, a byte each, and ends with it.
    """

    def __init__(self, pid: int, sock: socket.socket):
        self.pid, self._sock = pid, sock

    def listen(self, on_signal: Callable[[int], None], on_end: Callable[[], None]) -> None:
        """Hand on what comes, until the process has gone."""
        while True:
            try:
                got = self._sock.recv(1)
            except OSError:
                got = b""
            if not got:
                on_end()
                return
            on_signal(got[0])


def spawn() -> Front:
    """Fork: returns in the child, in a session of its own; the parent becomes the front.

    The child has ``STOP_SIGNALS`` blocked, so that none finds it unprepared; it fetches them with
    ``signal.sigwait``, in a thread. The parent ends with the child's exit status.
    """
    theirs, ours = socket.socketpair()
    pid = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOP_SIGNALS, signal.SIGCHLD])
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        theirs.close()
        os.setsid()
        return Front(pid, ours)
    ours.close()
    try:
        code = _stand(child, theirs)
    except BaseException:
        code = 1
    os._exit(code)


def _stand(child: int, sock: socket.socket) -> int:
    """Pass signals on until the child has ended; its status."""
    # Killed, the guard can't end what the rank left behind.
    adopt_orphans()
    while True:
        # Not sigtimedwait: when this process has been stopped (Ctrl-Z) and goes on after the time
        # has run out, CPython 3.11's returns a signal that nobody sent.
        got = signal.sigwait([*STOP_SIGNALS, signal.SIGCHLD])
        if got != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                sock.send(bytes([got]))
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == child:
                for orphan in children() if os.WIFSIGNALED(status) else ():
                    with contextlib.suppress(OSError):
                        os.kill(orphan, signal.SIGKILL)
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
            if pid == 0:
                break
