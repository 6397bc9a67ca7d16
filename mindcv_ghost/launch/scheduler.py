"""MindSpore's scheduler: the one process of a job that trains nothing; the ranks register with it.

Rank 0's supervisor starts it as ``python -m mindcv_ghost.launch.scheduler``. msrun starts a
scheduler itself: it runs the user's script once more with MS_ROLE=MS_SCHED. That process
(:func:`run_for_msrun`) starts the same module as its child and watches it, because MindSpore lets
the process that is the scheduler do nothing else.
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
from typing import IO, NoReturn

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch import processes
from mindcv_ghost.launch.environment import (
    prepare_environment,
    with_package_path,
    without_launcher,
)
from mindcv_ghost.launch.failure_channel import SCHEDULER, Failure, FailureChannel
from mindcv_ghost.launch.rendezvous import resolve_host
from mindcv_ghost.launch.signal_relay import STOP_SIGNALS, fork_below_relay
from mindcv_ghost.launch.world import World, scheduler_address

__all__ = ["SchedulerProcess", "main", "run_for_msrun"]

_START_SECONDS = 180.0
_ATTEMPTS = 3


class SchedulerProcess:
    """Start the scheduler, watch it, end it.

    Args:
        host: address that the ranks will use, or a name for it.
        port: port, or 0 for any that is free.
        size: ranks of the job.
        log: where its output goes; None keeps it for ``last_output``.

    Attributes:
        host: the address.
        port: the port.
        process: the scheduler's process.

    Raises:
        LaunchError: if ``host`` isn't an address of this host, or ``port`` is taken.
    """

    def __init__(self, host: str, port: int, size: int, log: IO[bytes] | None = None):
        self.host, self.size, self._wanted_port = resolve_host(host), size, port
        self._log: IO[bytes] = log or tempfile.TemporaryFile()  # noqa: SIM115 (lives with self)
        self._attempts = 0
        self._start()

    def _start(self) -> None:
        self._attempts += 1
        # The scheduler binds its port only when it has imported MindSpore, seconds from now. Until
        # then this socket reserves the port: it is bound but never listens, and has SO_REUSEADDR
        # as MindSpore's own socket has, so that both may be bound.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._reserved.bind((self.host, self._wanted_port))
        except OSError as error:
            remedy = "choose another by MS_SCHED_PORT or msrun's --master_port"
            if error.errno == errno.EADDRNOTAVAIL:
                remedy = "MS_SCHED_HOST has to be an address of rank 0's host"
            raise LaunchError(
                f"the scheduler can't listen on port {self._wanted_port} of {self.host} "
                f"({error.strerror}): {remedy}"
            ) from error
        self.port = self._reserved.getsockname()[1]
        environ = with_package_path(without_launcher(os.environ))
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
            # Out of reach of a Ctrl-C, which is for the ranks; when they end, they end it.
            start_new_session=True,
        )

    def wait_until_listening(self) -> None:
        """Return when ranks can connect; start it again if another process took its port.

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
            f"MindSpore's scheduler process did not come up on {self.host}:{self.port}; the end "
            f"of its output:\n{self.last_output()}"
        )

    def last_output(self, lines: int = 15) -> str:
        """Read the last lines of its output."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        return "\n".join(text.rstrip().splitlines()[-lines:])

    def wait(self) -> str:
        """Wait until it has ended, and say how."""
        code = self.process.wait()
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(5)


def run_for_msrun() -> int:
    """Be the scheduler of an msrun job; end it when a rank has failed.

    msrun waits for this process without limit, and shows last the lines of its output that contain
    ERROR.

    Returns:
        the scheduler's exit status. If the job fails, this doesn't return.

    Raises:
        LaunchError: if msrun's variables are missing.
    """
    host, port = scheduler_address(os.environ) or ("", 0)
    size = os.environ.get("MS_WORKER_NUM", "")
    if not host or not size.isdigit():
        raise LaunchError(
            "MS_ROLE=MS_SCHED is set, but not MS_WORKER_NUM, MS_SCHED_HOST and MS_SCHED_PORT: "
            "start with msrun, which sets them all"
        )
    prepare_environment(World())  # nothing that only ranks need
    launcher = processes.launcher_process()
    # On Ctrl-C, msrun kills the process that it started. Ranks that save still need the scheduler,
    # so it runs below a signal relay, too. Signals, which are for the ranks, stay blocked here.
    relay = fork_below_relay()
    world = World(SCHEDULER, int(size), 0, int(size), "msrun")
    try:
        scheduler = SchedulerProcess(host, port, int(size), log=sys.stderr.buffer)
    except LaunchError as error:
        _end_job(FailureChannel(world, processes.exit_now, launcher), str(error))
    channels: list[FailureChannel] = []

    def connect() -> None:
        with contextlib.suppress(LaunchError):
            # When this process ends, the kernel ends the scheduler (``die_with_parent``).
            channels.append(FailureChannel(world, processes.exit_now, launcher))

    def watch_relay() -> None:
        while os.getppid() == relay:
            time.sleep(0.25)
        time.sleep(3)  # if msrun is ending, too, the ranks' supervisors know what to do
        if not channels:
            processes.exit_now(1)
        if processes.launcher_alive(launcher):
            text = "the process that msrun started was killed"
            channels[0].report(Failure(SCHEDULER, text, kind="signal"))

    processes.start_thread(connect)
    processes.start_thread(watch_relay)
    return scheduler.process.wait()


def _end_job(channel: FailureChannel, text: str) -> NoReturn:
    """End the ranks, which would wait for a scheduler that can't start: msrun leaves them alone."""
    channel.report(Failure(SCHEDULER, text, 2, kind="user"))
    while True:  # until rank 0 has ended the job: a connection that closes would count as a death
        time.sleep(1)


def main() -> None:
    """Run ``python -m mindcv_ghost.launch.scheduler PARENT-PID``."""
    # A launcher's signals are for the ranks, which need this process until they have ended.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # By the kernel: a thread that watches the parent would never run, since MindSpore holds
    # Python's lock for as long as the scheduler is at work (2.8).
    processes.die_with_parent(int(sys.argv[1]))
    import mindspore

    # The scheduler needs no device, whatever the ranks compute on.
    mindspore.set_device("CPU")
    mindspore.communication.init()  # returns when all ranks have unregistered
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
