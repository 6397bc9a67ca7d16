"""Connections between the supervisors of a job: if one rank dies, all end, and say which and why.

No launcher does this by itself. srun leaves the other ranks running. msrun and mpirun kill them
before they can say anything. MindSpore's own heartbeat takes half a minute or more, and then prints
pages of C++ errors from the ranks that were *not* at fault. So each rank has a supervisor, and each
supervisor holds a TCP connection to rank 0's. A supervisor reports how its rank failed. If a
connection closes before all ranks have finished, that rank has died together with its supervisor.

Rank 0 collects the reports of a short moment (one death makes other ranks fail, too), decides
which is the cause, prints it, and tells all supervisors to end their ranks. The channel also
carries barriers, and what rank 0 publishes: the scheduler's address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.connection import Connection
from mindcv_ghost.launch.processes import start_thread, start_timer
from mindcv_ghost.launch.rendezvous import accept, connect, rendezvous_of
from mindcv_ghost.launch.world import World

__all__ = ["SCHEDULER", "Failure", "FailureChannel"]

SCHEDULER = -1
"""The rank number that msrun's scheduler process has on the channel."""

# Reports that arrive this long after the first are compared before one is named the cause; after a
# death, which outweighs all others, the shorter time is enough. Launchers kill the remaining ranks
# up to a second after one has died (msrun sometimes at once), so there is no time to lose.
_COLLECT_SECONDS = 0.3
_COLLECT_AFTER_DEATH_SECONDS = 0.05
# How long rank 0 waits until the others have ended after a failure, and for those that haven't
# connected yet.
_END_SECONDS, _CONNECT_SECONDS = 1.0, 5.0
# A rank that has reported a failure ends by itself if rank 0 hasn't ended the job in this time.
_ANSWER_SECONDS = 10.0
_FINISH = "the end"
_DEATH = "it ended without a message (it was killed, or its host is lost)"


@dataclasses.dataclass
class Failure:
    """What happened to one rank.

    Args:
        rank: which one; ``SCHEDULER`` for the scheduler process.
        text: one line for the user.
        code: exit status for the whole job.
        detail: a traceback to print above the line, or "".
        kind: ``death`` (of a process), ``user`` (a UserError), ``error``, or ``signal``.
    """

    rank: int
    text: str
    code: int = 1
    detail: str = ""
    kind: str = "error"

    def priority(self) -> tuple[int, bool]:
        """Rank failures by how likely they are the cause; the smallest is the likeliest.

        A death makes the others fail in their collectives. A launcher's signal to stop is always
        a consequence. If all ranks refuse the same recipe, rank 0 says so.
        """
        weight = {"death": 0, "user": 1, "error": 1, "signal": 2}[self.kind]
        return weight, not (self.kind == "user" and self.rank == 0)

    def message(self, size: int) -> str:
        """Word the failure for the user, the cause in the last line.

        Args:
            size: ranks of the job.
        """
        who = "the scheduler process" if self.rank == SCHEDULER else f"rank {self.rank} of {size}"
        if self.kind == "user":
            return f"error: {self.text}" if self.rank == 0 else f"error: {who}: {self.text}"
        detail = self.detail.rstrip() + "\n" if self.detail else ""
        return f"{detail}{who} failed: {self.text}"


class FailureChannel:
    """One process's end of the channel. All others are connected to rank 0's.

    Args:
        world: this process's place in the job; ``rank`` may be ``SCHEDULER``.
        end: ends this process and the processes that belong to it, with an exit status.
        launcher: the process that started the ranks (``processes.launcher_process``).

    Raises:
        LaunchError: if rank 0 can't listen, or can't be reached in time.
    """

    def __init__(self, world: World, end: Callable[[int], object], launcher: str):
        # Supervisors load nothing heavy, so they start within a second. Across hosts, Python itself
        # may come from a slow network disk.
        given = os.environ.get("MINDCV_GHOST_START_SECONDS") or (25 if world.one_host else 120)
        try:
            seconds = float(given)
        except ValueError:
            raise LaunchError(f"MINDCV_GHOST_START_SECONDS={given!r} is not a number") from None
        self.world, self._end = world, end
        self._rendezvous = rendezvous_of(world, os.environ, launcher)
        self._changed = threading.Condition()  # protects what follows
        self._published: dict[str, object] = {}  # by rank 0: values, and barriers that are complete
        self._connections: dict[int, Connection] = {}  # on rank 0 all others', else only rank 0's
        # Only on rank 0:
        self._arrived: dict[str, set[int]] = {}  # barrier -> ranks that have come to it
        self._failures: list[Failure] = []  # in the order of their arrival
        self._lost: set[int] = set()  # ranks whose connection has closed
        self._verdict: dict[str, object] = {}  # what ends the job, told to all others
        if world.rank == 0:
            start_thread(self._admit, self._rendezvous.listen())
            start_thread(self._end_job_on_failure)
            start_thread(self._fail_if_ranks_are_missing, seconds)
        else:
            self._connections[0] = connect(self._rendezvous, world.rank, seconds)
            start_thread(self._follow_rank_0, self._connections[0])

    # -- for the process that holds this end --------------------------------------------------

    def barrier(self, name: str, timeout_seconds: float | None = None) -> None:
        """Wait until all ranks have come here, but no longer than ``timeout_seconds``."""
        if self.world.rank == 0:
            self._arrive(name, 0)
        else:
            self._connections[0].send(arrived=name)
        with self._changed:
            self._changed.wait_for(lambda: name in self._published, timeout_seconds)

    def publish(self, name: str, value: object = None) -> None:
        """On rank 0: let all ranks know a value that JSON can hold."""
        with self._changed:
            # Rank 0 goes on when it has the lock again, so the others know by then.
            for connection in self._connections.values():
                connection.send(published=name, value=value)
            self._published[name] = value
            self._changed.notify_all()

    def wait_for(self, name: str) -> object:
        """Wait for a value that rank 0 publishes."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._published)
            return self._published[name]

    def own_address(self) -> str:
        """On rank 0: wait until all ranks are connected; return its address as they reach it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._missing())
            hosts = [each.sock.getsockname()[0] for each in self._connections.values()]
        return next((host for host in hosts if not host.startswith("127.")), "127.0.0.1")

    def report(self, failure: Failure) -> None:
        """Report that this rank or its scheduler failed; rank 0 then ends the job.

        Once all ranks have finished, nothing counts as a failure.
        """
        if self.finished:
            return
        if self.world.rank == 0:
            self._add(failure)
            return

        def end_alone() -> None:
            _print(failure.message(self.world.size))
            self._end(failure.code)

        self._connections[0].send(failure=dataclasses.asdict(failure))
        start_timer(_ANSWER_SECONDS, end_alone)

    def finish(self) -> None:
        """Wait until all ranks have finished; from then on a lost connection means nothing."""
        self.barrier(_FINISH)
        if self.world.rank == 0:
            self._rendezvous.remove_file()

    @property
    def finished(self) -> bool:
        """Whether all ranks have finished."""
        return _FINISH in self._published

    # -- on rank 0 ----------------------------------------------------------------------------

    def _admit(self, listener: socket.socket) -> None:
        while True:
            start_thread(self._serve, listener.accept()[0])

    def _missing(self) -> list[int]:
        return sorted(set(range(1, self.world.size)) - self._connections.keys())

    def _fail_if_ranks_are_missing(self, timeout_seconds: float) -> None:
        """Don't wait for ranks that died before they could connect."""
        with self._changed:
            self._changed.wait_for(lambda: not self._missing(), timeout_seconds)
            missing = self._missing()
        if not missing:
            if self.world.launcher != "msrun":  # whose scheduler may not be connected yet
                self._rendezvous.remove_file()
            return
        ranks = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        text = (
            f"of {self.world.size} ranks, these have not reported within {timeout_seconds:.0f} "
            f"seconds of rank 0's start: {ranks}. They died at once, or their hosts are slow to "
            "start Python: then export MINDCV_GHOST_START_SECONDS=300"
        )
        self._add(Failure(0, text, 2, kind="user"))

    def _serve(self, sock: socket.socket) -> None:
        """Read what one rank sends."""
        accepted = accept(sock, self._rendezvous.key, self.world.size)
        if not accepted:
            return
        rank, connection = accepted
        with self._changed:
            if rank in self._connections:
                connection.close()
                return
            self._connections[rank] = connection
            for name, value in self._published.items():
                connection.send(published=name, value=value)
            if self._verdict:  # or it would take rank 0's end, which is near, for a death
                connection.send(**self._verdict)
            self._changed.notify_all()
        while True:
            message = connection.receive()
            if message is None:
                break
            if "arrived" in message:
                self._arrive(message["arrived"], rank)
            elif "failure" in message:
                self._add(Failure(**message["failure"]))
        self._lost.add(rank)
        if not self.finished:
            self._add(Failure(rank, _DEATH, kind="death"))

    def _arrive(self, name: str, rank: int) -> None:
        with self._changed:
            arrived = self._arrived.setdefault(name, set())
            arrived.add(rank)
            if len(arrived) == self.world.size:
                self.publish(name)
            if self.finished:
                return
            # A rank that has finished won't come to a barrier at which others wait.
            finished = self._arrived.get(_FINISH, set())
            for barrier, waiting in self._arrived.items():
                if barrier not in self._published and finished - waiting:
                    text = f"it has ended while other ranks wait for it (at {barrier})"
                    self._add(Failure(min(finished - waiting), text))

    def _add(self, failure: Failure) -> None:
        with self._changed:
            if all(other.rank != failure.rank for other in self._failures):
                self._failures.append(failure)
                self._changed.notify_all()

    def _end_job_on_failure(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failures)
            self._changed.wait_for(
                lambda: any(failure.kind == "death" for failure in self._failures),
                _COLLECT_SECONDS,
            )
        time.sleep(_COLLECT_AFTER_DEATH_SECONDS)
        with self._changed:
            cause = min(self._failures, key=Failure.priority)
        message = cause.message(self.world.size)
        _print(message)
        with self._changed:
            self._verdict = {"end": cause.code, "text": message.splitlines()[-1]}
            for connection in self._connections.values():
                connection.send(**self._verdict)
        # If rank 0 ended first, launcher and ranks would take that for one more death; also a rank
        # that is about to connect, which on a busy host may take seconds longer than the failure.
        started = time.monotonic()
        while True:
            with self._changed:
                missing = self._missing()
                left = missing or self._connections.keys() - self._lost
            seconds = _CONNECT_SECONDS if missing else _END_SECONDS
            if not left or time.monotonic() - started > seconds:
                break
            time.sleep(0.02)
        self._end(cause.code)

    # -- on the others ------------------------------------------------------------------------

    def _follow_rank_0(self, connection: Connection) -> None:
        while True:
            message = connection.receive()
            if message is None:
                break
            if "published" in message:
                with self._changed:
                    self._published[message["published"]] = message["value"]
                    self._changed.notify_all()
            if "end" in message:
                if self.world.rank == SCHEDULER:
                    _print(f"[ERROR] {message['text']}")  # msrun shows lines with this word
                self._end(message["end"])
        if not self.finished:
            if self.world.rank == 1:  # one message is enough
                _print(Failure(0, _DEATH, kind="death").message(self.world.size))
            self._end(1)
        elif self.world.rank == SCHEDULER:
            self._end(0)  # by itself it would need seconds to notice that all ranks have left


def _print(text: str) -> None:
    # In one write: what several processes write in pieces comes out mixed.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
