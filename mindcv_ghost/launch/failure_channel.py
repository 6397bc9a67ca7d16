"""A thin line between the ranks: if one dies, all end, and say which one and why.

No launcher does this alone. srun leaves the others running, msrun and mpirun kill them before
they can say anything, and MindSpore's own heartbeat takes half a minute or more and ends in pages
of C++ errors from the ranks that were *not* at fault. So each rank has a guard (see ``guard``), and
each guard holds a TCP connection to rank 0's. A guard reports how its rank failed; a connection
that closes before all have finished is a rank that died with its guard. Rank 0 collects for a
moment what comes in (a death makes others fail, too), picks the cause, prints it and tells
everyone, and all end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import sys
import threading
import time
from collections.abc import Callable

from mindcv_ghost.launch.rendezvous import Channel, Meeting, accept, connect
from mindcv_ghost.launch.world import World

__all__ = ["SCHEDULER", "Failure", "Lifeline"]

SCHEDULER = -1  # msrun's scheduler process, on the line like a rank
# What comes in this long after the first sign of trouble is weighed together, unless that is a
# death, which outweighs all. Launchers kill the remaining ranks up to a second after one has died
# (msrun sometimes at once), so there is no time to lose.
_WEIGH_SECONDS = 0.3
_WEIGH_DEATH_SECONDS = 0.05
# How long rank 0 may take to answer a report before the rank that made it ends by itself.
_ANSWER_SECONDS = 10.0
_FINISH = "the end"
_DEATH = "it ended without a word (killed, or its host has gone)"


@dataclasses.dataclass
class Failure:
    """What happened to one rank.

    Args:
        rank: which.
        text: one line for the user.
        code: exit status for the whole job.
        detail: a traceback to print above the line, or "".
        kind: ``death`` (without a word), ``user`` (a UserError), ``error``, or ``signal``.
    """

    rank: int
    text: str
    code: int = 1
    detail: str = ""
    kind: str = "error"
    when: float = dataclasses.field(default_factory=time.monotonic)

    def order(self) -> tuple[int, bool, float]:
        """The smaller, the likelier the cause.

        A death makes the others fail in their collectives, and being told to stop by the launcher
        is always a consequence. If all refuse the same recipe, rank 0 speaks.
        """
        weight = {"death": 0, "user": 1, "error": 1, "signal": 2}[self.kind]
        return weight, not (self.kind == "user" and self.rank == 0), self.when

    def report(self, size: int) -> str:
        """What the user reads, the cause last."""
        if self.kind == "user":
            who = "" if self.rank == 0 else f"rank {self.rank} of {size}: "
            return f"error: {who}{self.text}"
        who = "the scheduler process" if self.rank == SCHEDULER else f"rank {self.rank} of {size}"
        detail = self.detail.rstrip() + "\n" if self.detail else ""
        return f"{detail}{who} failed: {self.text}"


class Lifeline:
    """One rank's end of the line; rank 0's is the star's centre.

    Args:
        world: this process's place in the job; ``rank`` may be ``SCHEDULER``.
        meeting: where the ranks meet.
        timeout_seconds: how long to wait for rank 0, or (rank 0) for the other ranks.
        end: ends this process and what belongs to it, with the exit status it is given.

    Raises:
        LaunchError: if rank 0 can't listen, or can't be reached.
    """

    def __init__(
        self, world: World, meeting: Meeting, timeout_seconds: float, end: Callable[[int], None]
    ):
        self.world, self.meeting, self.timeout_seconds = world, meeting, timeout_seconds
        self._end = end
        self._changed = threading.Condition()
        self._failures: list[Failure] = []
        self._notes: dict[str, object] = {}
        self._channels: dict[int, Channel] = {}  # rank 0: everybody's; else rank 0's alone
        self._waiting: dict[str, set[int]] = {}  # rank 0: barrier -> ranks that are there
        self._passed: set[str] = set()
        self._lost: set[int] = set()  # rank 0: ranks whose connection has closed
        if world.rank == 0:
            self._listener = meeting.listen()
            self._start(self._admit)
            self._start(self._judge)
            self._start(self._miss, timeout_seconds)
        else:
            channel = connect(meeting, world.rank, timeout_seconds)
            self._channels[0] = channel
            self._start(self._obey, channel)

    @staticmethod
    def _start(target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True, name="lifeline").start()

    # -- what the guard calls ---------------------------------------------------------------

    def barrier(self, name: str, timeout_seconds: float | None = None) -> bool:
        """Wait until all ranks have come here; False if they haven't in the time given."""
        if self.world.rank == 0:
            self._arrive(name, 0)
        else:
            self._channels[0].send(at=name)
        return self.await_passed(name, timeout_seconds)

    def await_passed(self, name: str, timeout_seconds: float | None = None) -> bool:
        """Wait, without being one of them, until all ranks have come to a barrier."""
        with self._changed:
            return self._changed.wait_for(lambda: name in self._passed, timeout_seconds)

    def await_all(self, timeout_seconds: float | None = None) -> bool:
        """Rank 0: wait until every rank's guard is on the line; False after the time given."""
        ranks = set(range(1, self.world.size))
        with self._changed:
            return self._changed.wait_for(lambda: self._channels.keys() >= ranks, timeout_seconds)

    def tell(self, name: str, value: object) -> None:
        """Rank 0: let everybody know (JSON values)."""
        with self._changed:
            self._notes[name] = value
            channels = list(self._channels.values())
            self._changed.notify_all()
        for channel in channels:
            channel.send(note=name, value=value)

    def learn(self, name: str) -> object:
        """Wait for what rank 0 tells."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._notes)
            return self._notes[name]

    def remote_address(self) -> str:
        """Rank 0's address as other hosts reach it, after all have connected."""
        with self._changed:
            channels = list(self._channels.values())
        hosts = [channel.sock.getsockname()[0] for channel in channels]
        return next((host for host in hosts if not host.startswith("127.")), "127.0.0.1")

    def report(self, failure: Failure) -> None:
        """Say that this rank (or its scheduler) failed; rank 0 then ends the job.

        After the common end there is nothing left to fail.
        """
        if self.finished:
            return
        if self.world.rank == 0:
            self._add(failure)
            return
        message = dataclasses.asdict(failure)
        message.pop("when")
        self._channels[0].send(fail=message)

        def give_up() -> None:
            self._say(failure)
            self._end(failure.code)

        timer = threading.Timer(_ANSWER_SECONDS, give_up)
        timer.daemon = True
        timer.start()

    def finish(self) -> None:
        """Wait until all ranks have finished; from then on a lost connection means nothing."""
        self.barrier(_FINISH)
        if self.world.rank == 0:
            self.meeting.done()

    @property
    def finished(self) -> bool:
        """Whether all ranks have finished."""
        return _FINISH in self._passed

    # -- rank 0 -----------------------------------------------------------------------------

    def _admit(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._start(self._serve, sock)

    def _miss(self, timeout_seconds: float) -> None:
        """Don't wait for ranks that died before they could say so."""
        if self.await_all(timeout_seconds):
            if self.world.launcher != "msrun":  # there, the scheduler may still be coming
                self.meeting.done()
            return
        missing = sorted(set(range(1, self.world.size)) - self._channels.keys())
        ranks = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        text = (
            f"of {self.world.size} ranks, these have not reported within {timeout_seconds:.0f} "
            f"seconds of rank 0's start: {ranks}. They died at once, or their hosts are slow to "
            "start Python: then export MINDCV_GHOST_START_SECONDS=300"
        )
        self._add(Failure(0, text, 2, kind="user"))

    def _serve(self, sock: socket.socket) -> None:
        found = accept(sock, self.meeting.key, self.world.size)
        if not found:
            return
        rank, channel = found
        with self._changed:
            if rank in self._channels:
                channel.close()
                return
            self._channels[rank] = channel
            notes = dict(self._notes)
            self._changed.notify_all()
        for name, value in notes.items():
            channel.send(note=name, value=value)
        while True:
            message = channel.receive()
            if message is None:
                self._lost.add(rank)
                if not self.finished:
                    self._add(Failure(rank, _DEATH, kind="death"))
                return
            if "at" in message:
                self._arrive(str(message["at"]), rank)
            elif "fail" in message:
                self._add(Failure(**message["fail"]))

    def _arrive(self, name: str, rank: int) -> None:
        with self._changed:
            here = self._waiting.setdefault(name, set())
            here.add(rank)
            complete = len(here) == self.world.size
            channels = list(self._channels.values())
        if complete:
            # Rank 0's own code goes on last: MindSpore's init() holds the interpreter's lock while
            # it waits for the other ranks, and then no thread of rank 0 could tell them any more.
            for channel in channels:
                channel.send(passed=name)
            with self._changed:
                self._passed.add(name)
                self._changed.notify_all()
        self._check_abandoned()

    def _check_abandoned(self) -> None:
        """A rank that has finished won't come to where others wait for it."""
        with self._changed:
            finished = self._waiting.get(_FINISH, set())
            # All have: then some are already on their way out, at barriers of their own. (Not
            # ``self.finished``: a quick rank is at the next barrier before that is set here.)
            if len(finished) == self.world.size:
                return
            waited_for = [
                (min(finished - here), name)
                for name, here in self._waiting.items()
                if name not in self._passed and finished - here
            ]
        for rank, name in waited_for:
            text = f"it has ended while other ranks wait for it (at {name})"
            self._add(Failure(rank, text))

    def _add(self, failure: Failure) -> None:
        with self._changed:
            if all(other.rank != failure.rank for other in self._failures):
                self._failures.append(failure)
                self._changed.notify_all()

    def _judge(self) -> None:
        def death() -> bool:
            return any(failure.kind == "death" for failure in self._failures)

        with self._changed:
            self._changed.wait_for(lambda: self._failures)
            self._changed.wait_for(death, _WEIGH_SECONDS)
        time.sleep(_WEIGH_DEATH_SECONDS)
        with self._changed:
            cause = min(self._failures, key=Failure.order)
            channels = list(self._channels.values())
        self._say(cause)
        for channel in channels:
            channel.send(end=cause.code, text=cause.report(self.world.size).splitlines()[-1])
        # Ending first would look like one more death to the launcher and to the ranks.
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and self._channels.keys() - self._lost:
            time.sleep(0.02)
        self._end(cause.code)

    # -- the others -------------------------------------------------------------------------

    def _obey(self, channel: Channel) -> None:
        while True:
            message = channel.receive()
            if message is None:
                break
            with self._changed:
                if "passed" in message:
                    self._passed.add(str(message["passed"]))
                elif "note" in message:
                    self._notes[str(message["note"])] = message.get("value")
                self._changed.notify_all()
            if "end" in message:
                if self.world.rank == SCHEDULER:
                    self._write(f"[ERROR] {message.get('text')}")  # msrun looks for this word
                self._end(int(message["end"]))
        if not self.finished:
            if self.world.rank == 1:  # one voice is enough
                self._say(Failure(0, _DEATH, kind="death"))
            self._end(1)
        elif self.world.rank == SCHEDULER:
            self._end(0)  # by itself it would need seconds to see that all have left

    def _say(self, failure: Failure) -> None:
        self._write(failure.report(self.world.size))

    @staticmethod
    def _write(text: str) -> None:
        # One write: what several processes write in pieces comes out mixed.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
