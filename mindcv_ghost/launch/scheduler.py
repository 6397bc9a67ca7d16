"""The one process of a job that trains nothing: MindSpore's ranks register with it.

Rank 0 starts it as ``python -m mindcv_ghost.launch.scheduler``. msrun starts one by running the
user's script once more with MS_ROLE=MS_SCHED; ``run_script`` then starts this module all the same
and watches it, because MindSpore leaves the process that is the scheduler no way to do anything
else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.processes import die_with_parent, finding_package
from mindcv_ghost.launch.rendezvous import resolved
from mindcv_ghost.launch.world import without_launcher

__all__ = ["SchedulerProcess", "main"]

_UNREGISTER_SECONDS = 10.0
_START_SECONDS = 180.0
_ATTEMPTS = 3


class SchedulerProcess:
    """Start the scheduler, watch it, end it.

    Args:
        host: address that the ranks will use, or a name that stands for it.
        port: port, or 0 for any that is free.
        size: ranks of the job.
        log: where its output goes; None keeps it for ``said``.

    Attributes:
        host: the address.

    Raises:
        LaunchError: if ``host`` isn't an address of this host, or ``port`` is taken.
    """

    def __init__(self, host: str, port: int, size: int, log: IO[bytes] | None = None):
        self.host, self.size, self._wanted = resolved(host), size, port
        self._log: IO[bytes] = log or tempfile.TemporaryFile()  # noqa: SIM115 (lives with self)
        self._attempts = 0
        self._start()

    def _start(self) -> None:
        self._attempts += 1
        # The scheduler binds its port only when it has imported MindSpore, seconds from now. Until
        # then this socket keeps the port from others: bound, never listening, with SO_REUSEADDR,
        # which MindSpore's own has as well, so that it may bind beside this one.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._reserved.bind((self.host, self._wanted))
        except OSError as error:
            mend = "export another MS_SCHED_PORT"
            if error.errno == errno.EADDRNOTAVAIL:
                mend = "MS_SCHED_HOST has to be an address of rank 0's host"
            raise LaunchError(
                f"the scheduler can't have port {self._wanted} of {self.host} "
                f"({error.strerror}): {mend}"
            ) from error
        self.port = self._reserved.getsockname()[1]
        environ = finding_package(without_launcher(os.environ))
        environ.update(
            MS_ROLE="MS_SCHED",
            MS_WORKER_NUM=str(self.size),
            MS_SCHED_HOST=self.host,
            MS_SCHED_PORT=str(self.port),
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mindcv_ghost.launch.scheduler", str(os.getpid())],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # Its own process group: a Ctrl-C is for the ranks, which then end it.
            start_new_session=True,
        )

    def wait_until_listening(self) -> None:
        """Return when ranks can connect; start it again if something took its port.

        Raises:
            LaunchError: if it doesn't come up.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                if self._attempts == _ATTEMPTS:
                    break
                self._start()
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            time.sleep(0.02)
        self.kill()
        raise LaunchError(
            f"MindSpore's scheduler process did not come up on {self.host}:{self.port}; "
            f"it said:\n{self.said()}"
        )

    def said(self, lines: int = 15) -> str:
        """The last lines of its output."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        return "\n".join(text.rstrip().splitlines()[-lines:])

    def status(self) -> str:
        """Nothing while it runs, else how it ended."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def wait(self) -> None:
        """Wait for its orderly end, when all ranks have unregistered; but not for ever."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_UNREGISTER_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(OSError):
            self.process.kill()
            self.process.wait(5)


def main() -> None:
    """Entry point of ``python -m mindcv_ghost.launch.scheduler PID-OF-RANK-0``."""
    # A launcher's SIGTERM is for the ranks, which need this process to end well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # By the kernel: a thread that watches the parent would never run, since MindSpore holds
    # Python's lock for as long as the scheduler is at work (2.8).
    die_with_parent(int(sys.argv[1]))
    import mindspore

    # Whatever the ranks compute on, their scheduler needs no device.
    mindspore.set_device("CPU")
    mindspore.communication.init()  # returns when all ranks have unregistered
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
