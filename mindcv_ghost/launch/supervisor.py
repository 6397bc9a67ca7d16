"""Every rank is three processes: front, guard, rank; each is the parent of the next.

The launcher started the first one (see ``front``). All are forked before anything heavy is loaded;
the last becomes the rank and runs the script. The guard costs about 10 MB and no time, and it is
always there to answer, which a thread in the rank is not: MindSpore keeps Python's lock while it
forms the cluster (2.8), for as long as that takes, and a thread would neither hear of another
rank's death nor tell of its own. The guard sees every end of the rank, with the signal that killed
it, reports it over the lifeline, and takes the rank along when the job has failed elsewhere. If the
guard dies, the kernel kills the rank.

A signal to stop ends the job, unless the rank has said that it heeds signals: then the guard passes
it on, and the rank saves and ends by itself. When the launcher or the front goes away meanwhile,
the guard gives the rank some time, and no more.
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
from mindcv_ghost.launch.failure_channel import SCHEDULER, Failure, Lifeline
from mindcv_ghost.launch.processes import (
    adopt_orphans,
    children,
    die_with_parent,
    end_msrun_tails,
    is_stopped,
    launcher_alive,
    launcher_process,
    leave_at_once,
    msrun_options,
)
from mindcv_ghost.launch.rendezvous import Channel, meeting_point, resolved
from mindcv_ghost.launch.scheduler import SchedulerProcess
from mindcv_ghost.launch.signal_relay import STOP_SIGNALS, Front, spawn
from mindcv_ghost.launch.world import World, scheduler_address

__all__ = ["Guard", "Ward", "open_line", "split"]

_POLL_SECONDS = 0.25
# A Ctrl-C may come twice: to a process and to its group, or to all of a Slurm step's processes.
_ONE_KEYSTROKE_SECONDS = 0.3
# How long a rank that heeds signals may go on when front or launcher have gone: after a signal to
# stop, and without one, when they may have been killed to end the job (users are promised 30 s).
_SAVE_SECONDS = 60.0
_LOST_SECONDS = 25.0
# A rank may return from main() long after another one (rank 0 writes), but not for ever.
_RETURN_SECONDS = 120.0
_FINISH, _LEFT = "finish", "left"


def open_line(world: World, end: Callable[[int], None], launcher: str) -> Lifeline:
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
    return Lifeline(world, meeting_point(world, os.environ, launcher), seconds, end)


class Ward:
    """The rank's side: what it asks of its guard."""

    def __init__(self, channel: Channel):
        self._channel = channel

    def ask(self, what: str, **more: object) -> None:
        """Send a request; ``answer`` waits for what comes back."""
        self._channel.send(ask=what, **more)

    def answer(self, what: str) -> object:
        """Wait for the answer to a request. A request that can't be met ends the job."""
        while True:
            message = self._channel.receive()
            if message is None:
                os._exit(1)
            if message["to"] == what:
                return message["answer"]

    def request(self, what: str, **more: object) -> object:
        """Send a request and wait for what comes back."""
        self.ask(what, **more)
        return self.answer(what)

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
    """Fork twice: returns in the rank; front and guard end with the job's exit status."""
    launcher, options = launcher_process(), msrun_options()
    # Without --join True, msrun ends as soon as its ranks run, and that means nothing.
    follows = world.launcher != "msrun" or bool(options and options[1])
    guards, wards = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or all would write what is waiting
    front = spawn()
    guard = os.getpid()
    child = os.fork()
    with contextlib.suppress(OSError):  # in both: whoever comes first
        # What the rank starts is stopped and ended with it.
        os.setpgid(child, child)
    if child == 0:
        die_with_parent(guard)
        guards.close()
        # None can be waiting: the guard passes on what a rank heeds, and this one can't yet.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return Ward(Channel(wards))
    wards.close()
    try:
        Guard(world, child, Channel(guards), front, launcher, follows).run()
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
        front: the process between this one and the launcher.
        launcher: what started the ranks (``processes.launcher_process``).
        follows: whether the launcher's end is the job's.
    """

    def __init__(
        self,
        world: World,
        child: int,
        channel: Channel,
        front: Front,
        launcher: str,
        follows: bool,
    ):
        self.world, self.child, self.channel = world, child, channel
        self.front, self.launcher, self.follows = front, launcher, follows
        self.scheduler: SchedulerProcess | None = None
        self.line: Lifeline | None = None
        self._early: list[Failure] = []  # reported before the line was there
        self._reporting = threading.Lock()
        self._ending = threading.Lock()
        self._alive = True
        self._code = 0  # the rank's own status, once it has finished
        self._exit_seconds = 0.0  # that it may then take to end
        self._signalling = threading.Lock()
        self._heeds = False
        self._came: dict[int, float] = {}  # signals that the rank has been told of -> when
        self._abandoned = False

    def run(self) -> None:
        """Guard the rank to its end. Does not return."""
        # What the rank forked and left behind becomes ours, to be ended with it.
        adopt_orphans()
        self._start(self._fetch_signals)
        self._start(self.front.listen, self._on_signal, self._on_front_gone)
        try:
            line = open_line(self.world, self.end, self.launcher)
        except LaunchError as error:
            sys.stderr.write(f"error: {error}\n")
            self.end(2)
        with self._reporting:
            self.line = line
        for failure in self._early:
            line.report(failure)
        self._start(self._serve)
        self._start(self._follow)
        status = self._wait()
        if self.line.finished:
            # Together: launchers kill the others when one has ended with a status. And then
            # nobody needs the scheduler, which takes up to 4 s to see that by itself.
            self.line.barrier(_LEFT, self._exit_seconds)
            self.end(self._code)
        self._report(self._how_it_ended(status))
        threading.Event().wait()  # rank 0's verdict ends this process

    @staticmethod
    def _start(target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

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

    # -- signals, and the loss of those above ------------------------------------------------

    def _fetch_signals(self) -> None:
        """Those sent to this process itself: by a user, or by Slurm to all of a step."""
        while True:
            self._on_signal(signal.sigwait(STOP_SIGNALS))

    def _on_signal(self, number: int) -> None:
        """Pass a signal on to a rank that heeds it, once; else it ends the job."""
        now, name = time.monotonic(), signal.Signals(number).name
        with self._signalling:
            before = self._came.get(number)
            if before is None and (self._heeds or self._came):
                self._came[number] = now
                if self._heeds and self._alive:
                    with contextlib.suppress(OSError):
                        os.kill(self.child, number)
                return
        if before is None:
            text = "interrupted" if number == signal.SIGINT else f"ended by {name}"
        elif number == signal.SIGINT and now - before > _ONE_KEYSTROKE_SECONDS:
            text = "interrupted twice"
        else:
            return
        self._report(Failure(self.world.rank, text, 128 + number, kind="signal"))

    def _heed(self, heeds: bool) -> None:
        with self._signalling:
            self._heeds = heeds

    def _on_front_gone(self) -> None:
        self._abandon("the process that its launcher started was killed")

    def _follow(self) -> None:
        """End with mpirun (msrun, srun's daemon): killed by SIGKILL, it takes nobody with it.

        And stand still with the front: Ctrl-Z on mpirun stops that alone.
        """
        stands = False
        while not self.follows or launcher_alive(self.launcher):
            if is_stopped(self.front.pid) != stands:
                stands = not stands
                with contextlib.suppress(OSError):
                    os.killpg(self.child, signal.SIGSTOP if stands else signal.SIGCONT)
            time.sleep(_POLL_SECONDS)
        self._abandon("its launcher has gone")

    def _abandon(self, why: str) -> None:
        """Nobody is waiting for the rank any more: let it save if it heeds signals, or end it."""
        with self._signalling:
            if self._abandoned:
                return
            seconds = _SAVE_SECONDS if self._came else _LOST_SECONDS
            self._abandoned = heeds = self._heeds or bool(self._came)
        if not heeds:
            self._report(Failure(self.world.rank, why, kind="signal"))
            return
        self._on_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            os.killpg(self.child, signal.SIGCONT)  # it may have been stopped with the front
        time.sleep(seconds)
        text = f"{why}, and it has not ended within {seconds:.0f} s of that"
        self._report(Failure(self.world.rank, text, kind="signal"))

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
        elif ask in ("heed", "heed no more"):
            self._heed(ask == "heed")
        elif ask == _FINISH:
            self._exit_seconds = float(message["exit_seconds"])
            self._finish(int(message.get("code", 0)))
            timer = threading.Timer(self._exit_seconds, self.end, args=(self._code,))
            timer.daemon = True
            timer.start()
        else:
            self.line.barrier(ask)
        self.channel.send(to=ask, answer=answer)

    def _finish(self, code: int) -> None:
        """The rank's main() has returned; wait until all have."""
        self._code = code

        def give_up() -> None:
            text = f"exit status {code}, while other ranks went on"
            self._report(Failure(self.world.rank, text, code))

        timer = threading.Timer(_RETURN_SECONDS, give_up)
        timer.daemon = True
        if code:
            timer.start()
        self.line.finish()
        timer.cancel()

    def _scheduler_address(self) -> object:
        """Where MindSpore's scheduler listens; rank 0's guard starts it (under msrun, msrun)."""
        if self.world.launcher == "msrun":
            host, port = scheduler_address(os.environ) or ("", 0)
            try:
                return resolved(host), port
            except LaunchError as error:
                self._report(Failure(self.world.rank, str(error), 2, kind="user"))
                threading.Event().wait()  # rank 0's verdict ends this process
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
        self.line.tell("scheduler", [self.scheduler.host, self.scheduler.port])
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
        if self.world.launcher == "msrun" and self.follows and not launcher_alive(self.launcher):
            end_msrun_tails()
        leave_at_once(code)
