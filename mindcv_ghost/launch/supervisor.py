"""The process that watches over a rank: it decides how long the rank lives.

Every rank is three processes, each the parent of the next: signal relay, supervisor, rank. The
launcher started the first. All are forked before anything heavy is loaded; the last one becomes the
rank and runs the script. The supervisor costs about 10 MB and no computing time. A thread in the
rank could not do its work: MindSpore holds Python's lock while it forms the cluster (2.8), so for
that time the thread could neither hear of another rank's failure nor report its own.

The supervisor learns of every end of the rank, with the signal that killed it. It reports failures
over the failure channel, and kills the rank when the job has failed elsewhere. If the supervisor
itself dies, the kernel kills the rank. A rank's life::

    stateDiagram-v2
        [*] --> Starting: the launcher starts the script, which forks twice
        Starting --> Running: the failure channel is open
        Running --> Training: the rank enters deliver_signals()
        Training --> Running: the rank leaves deliver_signals()
        Training --> Saving: a signal to stop, which is delivered to the rank
        Training --> Saving: launcher or relay is gone (the rank gets SIGTERM)
        Running --> Finished: main() returns
        Saving --> Finished: main() returns, the state saved
        Finished --> Leaving: all ranks have finished
        Leaving --> [*]: all ranks' processes have ended, or exit_seconds are over
        Starting --> Failed: rank 0 isn't there in time
        Running --> Failed: a signal to stop, or launcher or relay is gone
        Saving --> Failed: a second SIGINT, or the time to save is over
        Finished --> Failed: status isn't 0, and others go on for 120 s
        Failed --> [*]: rank, scheduler and orphans are killed; status of the cause

From every state but Leaving, a failure anywhere in the job leads to Failed: an exception, the end
of a process, or a lost host. Leaving ends with the status that main() returned.
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
from typing import Any, NoReturn

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch import processes
from mindcv_ghost.launch.connection import Connection
from mindcv_ghost.launch.failure_channel import SCHEDULER, Failure, FailureChannel
from mindcv_ghost.launch.processes import kill, launcher_alive, start_thread, start_timer
from mindcv_ghost.launch.scheduler import SchedulerProcess
from mindcv_ghost.launch.signal_relay import STOP_SIGNALS, fork_below_relay
from mindcv_ghost.launch.world import World, scheduler_address

__all__ = ["Supervisor", "SupervisorClient"]

_POLL_SECONDS = 0.25
# A Ctrl-C may come twice: to a process and to its group, or to all of a Slurm step's processes.
_ONE_KEYSTROKE_SECONDS = 0.3
# How long a rank that handles signals may go on without its launcher or relay. The longer time is
# for a rank that was told to stop; without a signal, they may have been killed to end the job, and
# users are promised that it ends within 30 s.
_SAVE_SECONDS = 60.0
_LOST_SECONDS = 25.0
# A rank may return from main() long after another one (rank 0 writes), but not without limit.
_RETURN_SECONDS = 120.0
_SCHEDULER, _LEFT = "scheduler address", "left"
_CAUSES = {
    "SIGKILL": " (by a user, the job's manager, or the kernel because memory ran out)",
    "SIGSEGV": " (a crash in native code)",
    "SIGFPE": " (a crash in native code)",
    "SIGBUS": " (a crash in native code, or /dev/shm is full)",
    "SIGABRT": " (native code gave up; see its message above)",
}


class SupervisorClient:
    """The rank's side: what it requests of its supervisor.

    Args:
        connection: to the supervisor.

    Attributes:
        exit_seconds: how long MindSpore may take to end, once all ranks have finished.
    """

    exit_seconds = 20.0

    def __init__(self, connection: Connection):
        self._connection = connection

    def start_scheduler(self) -> None:
        """Have MindSpore's scheduler started; doesn't wait for it."""
        self._connection.send(request=_SCHEDULER)

    def scheduler_address(self) -> tuple[str, int]:
        """Wait until the scheduler listens; start it if it hasn't been."""
        host, port = self._request(_SCHEDULER)
        return host, port

    def barrier(self, name: str) -> None:
        """Wait until all ranks have come to the barrier of this name."""
        self._request("barrier", name=name)

    def deliver_signals(self, wanted: bool) -> None:
        """Say whether this rank wants to get signals to stop; else they end the job."""
        self._request("signals", wanted=wanted)

    def finish(self, code: int) -> None:
        """Say that main() has returned ``code``, and wait until all ranks' have."""
        self._request("finish", code=code, exit_seconds=self.exit_seconds)

    def fail(self, failure: Failure) -> NoReturn:
        """Report this rank's failure; the supervisor then ends this process."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self._connection.send(failure=dataclasses.asdict(failure))
        time.sleep(60)
        os._exit(failure.code)

    def _request(self, request: str, **arguments: object) -> Any:
        self._connection.send(request=request, **arguments)
        while True:
            message = self._connection.receive()
            if message is None:
                os._exit(1)
            # ``start_scheduler`` doesn't wait for its answer, so that may come first.
            if message["request"] == request:
                return message["answer"]


class Supervisor:
    """One rank's supervisor.

    Args:
        world: the rank's place in the job.
    """

    def __init__(self, world: World):
        self.world = world
        self.launcher, options = processes.launcher_process(), processes.msrun_options()
        # Without --join True, msrun ends as soon as its ranks run.
        self.ends_with_launcher = world.launcher != "msrun" or bool(options and options[1])
        self.scheduler: SchedulerProcess | None = None
        self._scheduler_requested = False
        self._channel: FailureChannel  # once it is open
        self._channel_open = threading.Event()
        self._ending = threading.Lock()
        self._alive = True
        self._code = 0  # that main() returned
        self._exit_seconds = 0.0  # that the rank may take to end after that
        self._signals = threading.Lock()  # protects the next two
        self._deliver = False
        self._delivered: dict[int, float] = {}  # signal -> when the rank got it

    def fork(self) -> SupervisorClient:
        """Fork twice; return in the rank. Relay and supervisor end with the job's exit status."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or each process would write what is buffered
        self.relay = fork_below_relay()
        supervisor_end, rank_end = socket.socketpair()
        supervisor, self.child = os.getpid(), os.fork()
        # A group of its own, so that processes that the rank starts are stopped and ended with it.
        # Both processes do this, because either may come first.
        with contextlib.suppress(OSError):
            os.setpgid(self.child, self.child)
        if self.child == 0:
            processes.die_with_parent(supervisor)
            supervisor_end.close()
            # No signal can be pending: the supervisor delivers none before it is asked to.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            return SupervisorClient(Connection(rank_end))
        rank_end.close()
        try:
            self._run(Connection(supervisor_end))
        except BaseException:  # never return into the caller's code; the rank dies with this one
            traceback.print_exc()
        processes.exit_now(1)

    def _run(self, connection: Connection) -> None:
        """Watch the rank to its end, and end with it."""
        # Processes that the rank leaves behind become this process's, to be ended with the rank.
        processes.adopt_orphans()
        start_thread(self._receive_signals)
        start_thread(self._watch_parents)
        try:
            self._channel = FailureChannel(self.world, self.end, self.launcher)
        except LaunchError as error:
            sys.stderr.write(f"error: {error}\n")
            self.end(2)
        self._channel_open.set()
        start_thread(self._serve, connection)
        _, status = os.waitpid(self.child, 0)
        self._alive = False
        if self._channel.finished:
            # All together: launchers kill the others when one has ended with a status. The
            # scheduler would take up to 4 s more to notice that all ranks have left.
            self._channel.barrier(_LEFT, self._exit_seconds)
            self.end(self._code)
        self._report(*_describe_end(status), kind="death")
        threading.Event().wait()  # rank 0's decision ends this process

    def end(self, code: int) -> NoReturn:
        """Kill the rank, the scheduler and processes that the rank left, and exit."""
        self._ending.acquire()  # by the first caller; never released
        if self._alive:
            kill([self.child])
        if self.scheduler:
            self.scheduler.kill()
        for _ in range(20):
            orphans = processes.children()
            if not orphans:
                break
            kill(orphans)
            time.sleep(0.01)
        if self.world.launcher == "msrun" and self._launcher_is_lost():
            processes.end_msrun_tails()
        processes.exit_now(code)

    def _report(self, text: str, code: int = 1, kind: str = "error") -> None:
        self._channel_open.wait()
        self._channel.report(Failure(self.world.rank, text, code, kind=kind))

    # -- signals, and the loss of relay and launcher ------------------------------------------

    def _receive_signals(self) -> None:
        """Receive signals to stop: from the relay, a user, or Slurm, which signals a whole step."""
        while True:
            self._on_signal(signal.sigwait(STOP_SIGNALS))

    def _on_signal(self, number: int) -> None:
        """Deliver a signal, once, to a rank that wants it; else end the job."""
        now, name = time.monotonic(), signal.Signals(number).name
        with self._signals:
            before = self._delivered.get(number)
            if before is None and (self._deliver or self._delivered):
                self._delivered[number] = now
                if self._deliver and self._alive:
                    with contextlib.suppress(OSError):
                        os.kill(self.child, number)
                return
        if before is None:
            text = "interrupted" if number == signal.SIGINT else f"ended by {name}"
        elif number == signal.SIGINT and now - before > _ONE_KEYSTROKE_SECONDS:
            text = "interrupted twice"
        else:
            return
        self._report(text, 128 + number, "signal")

    def _launcher_is_lost(self) -> bool:
        return self.ends_with_launcher and not launcher_alive(self.launcher)

    def _watch_parents(self) -> None:
        """Notice the end of relay or launcher: if SIGKILL ends them, they signal nobody.

        Then nobody waits for the rank any more: let it save if it handles signals, else end it.
        Ctrl-Z on mpirun stops the relay alone; stop and continue the rank with it.
        """
        stopped = False
        while os.getppid() == self.relay and not self._launcher_is_lost():
            if processes.is_stopped(self.relay) != stopped:
                stopped = not stopped
                self._signal_group(signal.SIGSTOP if stopped else signal.SIGCONT)
            time.sleep(_POLL_SECONDS)
        why = "its launcher has gone"
        if os.getppid() != self.relay:
            why = "the process that its launcher started was killed"
        with self._signals:
            seconds = _SAVE_SECONDS if self._delivered else _LOST_SECONDS
            saves = self._deliver or bool(self._delivered)
        if saves:
            self._on_signal(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)  # it may have been stopped with the relay
            time.sleep(seconds)
            why += f", and it has not ended within {seconds:.0f} s of that"
        self._report(why, kind="signal")

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.child, number)

    # -- the rank's requests ------------------------------------------------------------------

    def _serve(self, connection: Connection) -> None:
        while True:
            message = connection.receive()
            if message is None:
                return
            if "failure" in message:
                self._channel.report(Failure(**message["failure"]))
                continue
            if message["request"] == _SCHEDULER and not self._scheduler_requested:
                self._scheduler_requested = True
                if self.world.is_main:
                    start_thread(self._run_scheduler)
            start_thread(self._answer, connection, message)

    def _answer(self, connection: Connection, message: dict[str, Any]) -> None:
        request, answer = message["request"], None
        if request == _SCHEDULER:
            answer = self._channel.wait_for(_SCHEDULER)
        elif request == "barrier":
            self._channel.barrier(message["name"])
        elif request == "signals":
            with self._signals:
                self._deliver = message["wanted"]
        elif request == "finish":
            self._exit_seconds = message["exit_seconds"]
            self._finish(message["code"])
        connection.send(request=request, answer=answer)

    def _finish(self, code: int) -> None:
        """Wait until all ranks' main() has returned; then limit the time to end."""
        self._code = code
        text = f"exit status {code}, while other ranks went on"
        timer = start_timer(_RETURN_SECONDS, self._report, text, code) if code else None
        self._channel.finish()
        if timer:
            timer.cancel()
        start_timer(self._exit_seconds, self.end, code)

    def _run_scheduler(self) -> None:
        """On rank 0: start the scheduler, publish its address, report its early end.

        All of it in one thread: the kernel takes the end of the thread that started a process for
        the death of its parent (see ``die_with_parent``).
        """
        given = scheduler_address(os.environ)
        host, port = given or ("127.0.0.1", 0)
        if not self.world.one_host:
            host = self._channel.own_address()
        try:
            self.scheduler = SchedulerProcess(host, port, self.world.size)
            self.scheduler.wait_until_listening()
        except LaunchError as error:
            self._report(str(error), 2, "user")
            return
        self._channel.publish(_SCHEDULER, [self.scheduler.host, self.scheduler.port])
        text = f"it ended ({self.scheduler.wait()})"
        self._channel.report(Failure(SCHEDULER, text, kind="death"))


def _describe_end(status: int) -> tuple[str, int]:
    """Word how a rank's process ended too early, and give the job's exit status for it.

    Args:
        status: as ``os.waitpid`` gives it.
    """
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"killed by {name}{_CAUSES.get(name, '')}", 128 + os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    if code == 0:
        return "it exited with status 0 before the other ranks had finished", 1
    return f"exit status {code}", code
