"""Every rank is two processes: the one the launcher started stays as the guard of the other.

The guard forks before anything heavy is loaded; the child becomes the rank and runs the script.
The guard costs about 10 MB and no time, and it is always there to answer, which a thread in the
rank is not: MindSpore keeps Python's lock while it forms the cluster (2.8), for as long as that
takes, and a thread would neither hear of another rank's death nor tell of its own. The guard sees
every end of the rank, with the signal that killed it, reports it over the lifeline, and takes the
rank along when the job has failed elsewhere. If the guard dies, the kernel kills the rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch import World, scheduler_address
from mindcv_ghost.lifeline import SCHEDULER, Failure, Lifeline
from mindcv_ghost.processes import (
    adopt_orphans,
    children,
    die_with_parent,
    launcher_alive,
    launcher_process,
    leave_at_once,
    msrun_options,
)
from mindcv_ghost.rendezvous import Channel, meeting_point
from mindcv_ghost.scheduler import SchedulerProcess

__all__ = ["Guard", "Ward", "open_line", "split"]

_POLL_SECONDS = 0.25
_EXIT_SECONDS = 20.0
_INTERRUPT_SECONDS = 3.0


def open_line(world: World, end: Callable[[int], None]) -> Lifeline:
    """This process's end of the job's lifeline.

    Raises:
        LaunchError: if rank 0 can't be found.
    """
    # Guards load nothing heavy, so they are there within a second; across hosts, Python itself
    # may come from a slow network disk.
    given = os.environ.get("MINDCV_GHOST_START_SECONDS") or (25 if world.one_host else 120)
    try:
        seconds = float(given)
    except ValueError:
        raise LaunchError(f"MINDCV_GHOST_START_SECONDS={given!r} is not a number") from None
    return Lifeline(world, meeting_point(world, os.environ), seconds, end)


class Ward:
    """The rank's side: what it asks of its guard."""

    def __init__(self, channel: Channel):
        self._channel = channel

    def ask(self, what: str) -> None:
        """Send a request; ``answer`` waits for what comes back."""
        self._channel.send(ask=what)

    def answer(self, what: str) -> object:
        """Wait for the answer to a request. A request that can't be met ends the job."""
        while True:
            message = self._channel.receive()
            if message is None:
                os._exit(1)
            if message["to"] == what:
                return message["answer"]

    def fail(self, failure: Failure) -> None:
        """Report this rank's failure, and wait for the job's end to come."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        message = dataclasses.asdict(failure)
        message.pop("when")
        self._channel.send(fail=message)
        time.sleep(60)
        os._exit(failure.code)


def split(world: World) -> Ward:
    """Fork: returns in the rank; the guard guards, and ends with the job's exit status."""
    guards, wards = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both would write what is waiting
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        guards.close()
        return Ward(Channel(wards))
    wards.close()
    try:
        Guard(world, child, Channel(guards)).run()
    except BaseException:  # never into the caller's code; the rank dies with this process
        traceback.print_exc()
    leave_at_once(1)
    raise AssertionError("unreachable")


class Guard:
    """One rank's guard.

    Args:
        world: the rank's place in the job.
        child: the rank's process.
        channel: the rank's requests and reports.
    """

    def __init__(self, world: World, child: int, channel: Channel):
        self.world, self.child, self.channel = world, child, channel
        self.scheduler: SchedulerProcess | None = None
        self.line: Lifeline | None = None
        self._early: list[Failure] = []  # reported before the line was there
        self._reporting = threading.Lock()
        self._ending = threading.Lock()
        self._alive = True

    def run(self) -> None:
        """Guard the rank to its end. Does not return."""
        # What the rank forked and left behind becomes ours, to be ended with it.
        adopt_orphans()
        # Handlers run at once: this main thread never does anything but wait.
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            line = open_line(self.world, self.end)
        except LaunchError as error:
            sys.stderr.write(f"error: {error}\n")
            self.end(2)
        with self._reporting:
            self.line = line
        for failure in self._early:
            line.report(failure)
        threading.Thread(target=self._serve, daemon=True).start()
        threading.Thread(target=self._follow_launcher, daemon=True).start()
        status = self._wait()
        if self.line.finished:
            if self.scheduler:
                self.scheduler.wait()
            leave_at_once(0)
        self._report(self._how_it_ended(status))
        threading.Event().wait()  # rank 0's verdict ends this process

    def _wait(self) -> int:
        """The rank's exit status, negative for a signal."""
        _, status = os.waitpid(self.child, 0)
        self._alive = False
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _how_it_ended(self, status: int) -> Failure:
        if status == 0:
            text, code = "it left with status 0 before the other ranks had finished", 1
        elif status > 0:
            text, code = f"exit status {status}", status
        else:
            name, code = signal.Signals(-status).name, 128 - status
            cause = {
                "SIGKILL": " (somebody did, or the machine ran out of memory)",
                "SIGSEGV": " (a crash in native code)",
                "SIGFPE": " (a crash in native code)",
                "SIGBUS": " (a crash in native code, or /dev/shm is full)",
                "SIGABRT": " (native code gave up; its message stands above)",
            }.get(name, "")
            text = f"killed by {name}{cause}"
        return Failure(self.world.rank, text, code, kind="death")

    def _report(self, failure: Failure) -> None:
        with self._reporting:
            if self.line is None:
                self._early.append(failure)
                return
        self.line.report(failure)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            failure = Failure(self.world.rank, "ended by SIGTERM", 143, kind="signal")
            # Not from here: the handler may have interrupted a thread's lock.
            threading.Thread(target=self._report, args=(failure,), daemon=True).start()
            return
        # The terminal sent it to the rank as well, which says so unless it is in native code.
        failure = Failure(self.world.rank, "interrupted", 130, kind="signal")
        timer = threading.Timer(_INTERRUPT_SECONDS, self._report, args=(failure,))
        timer.daemon = True
        timer.start()

    def _follow_launcher(self) -> None:
        """End with mpirun (msrun, srun's daemon): killed by SIGKILL, it takes nobody with it."""
        if self.world.launcher == "msrun":
            options = msrun_options()
            if not options or not options[1]:
                return
        process = launcher_process()
        while launcher_alive(process):
            time.sleep(_POLL_SECONDS)
        self._report(Failure(self.world.rank, "its launcher has gone", kind="signal"))

    # -- what the rank asks ------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            message = self.channel.receive()
            if message is None:
                return
            if "fail" in message:
                self._report(Failure(**message["fail"]))
            else:
                threading.Thread(target=self._fulfil, args=(message,), daemon=True).start()

    def _fulfil(self, message: dict) -> None:
        ask, answer = message["ask"], None
        if ask == "scheduler":
            answer = self._scheduler_address()
        elif ask == "finish":
            self.line.finish()
            timer = threading.Timer(_EXIT_SECONDS, self.end, args=(0,))
            timer.daemon = True
            timer.start()
        else:
            self.line.barrier(ask)
        self.channel.send(to=ask, answer=answer)

    def _scheduler_address(self) -> object:
        """Where MindSpore's scheduler listens; rank 0's guard starts it (under msrun, msrun)."""
        if self.world.launcher == "msrun":
            return scheduler_address(os.environ)
        if self.world.is_main:
            threading.Thread(target=self._run_scheduler, daemon=True).start()
        return self.line.learn("scheduler")

    def _run_scheduler(self) -> None:
        # All in one thread: the kernel counts a thread's end as the death of a parent.
        given = scheduler_address(os.environ)
        if self.world.one_host:
            host, port = given or ("127.0.0.1", 0)
        else:
            self.line.await_all()
            host, port = self.line.remote_address(), given[1] if given else 0
        try:
            self.scheduler = SchedulerProcess(host, port, self.world.size)
            self.scheduler.wait_until_listening()
        except LaunchError as error:
            self._report(Failure(0, str(error), 2, kind="user"))
            return
        self.line.tell("scheduler", [host, self.scheduler.port])
        while not self.scheduler.status():
            time.sleep(_POLL_SECONDS)
        if not self.line.finished:
            text = f"it ended ({self.scheduler.status()})"
            self._report(Failure(SCHEDULER, text, kind="death"))
        threading.Event().wait()

    # -- the end -----------------------------------------------------------------------------

    def end(self, code: int) -> None:
        """Take the rank, the scheduler and what the rank left behind along, and end."""
        self._ending.acquire()  # by whoever comes first; never released
        if self._alive:
            with contextlib.suppress(OSError):
                os.kill(self.child, signal.SIGKILL)
        if self.scheduler:
            self.scheduler.kill()
        for _ in range(20):
            orphans = children()
            if not orphans:
                break
            for orphan in orphans:
                with contextlib.suppress(OSError):
                    os.kill(orphan, signal.SIGKILL)
            time.sleep(0.01)
        leave_at_once(code)
