"""Noticing a check that doesn't end, whatever holds the process that makes it.

MindSpore computes and communicates with Python's lock held, so no thread of a rank that hangs would
ever get to say so. Two things that need no lock do it instead:

- a process of its own beside rank 0 (:class:`Watcher`), which knows what has been found so far and
  when the check under way has to be over, and prints the rest of the report if it isn't, or if the
  process has died;
- ``faulthandler``'s timer thread in each rank, which is C: some seconds later it ends the process
  with status 1. The ranks' supervisors then end the job.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mindcv_ghost.doctor.board import GRACE_SECONDS, read
from mindcv_ghost.doctor.findings import BROKEN, Finding, Report
from mindcv_ghost.launch.environment import with_package_path
from mindcv_ghost.launch.processes import exit_now

__all__ = ["LEAVE_SECONDS", "Watch", "Watcher", "main"]

LEAVE_SECONDS = 6.0
"""From a check's deadline, at which the watcher speaks, to the end of the rank."""

_POLL_SECONDS = 0.5
_MARGIN_SECONDS = 1.0  # in which a check that has ended just in time can say so
_QUIET_SECONDS = 15.0  # after which a check that is under way says how long it may take
_TRACED = 8  # ranks whose place in the code is looked up
_OVER = "over"  # the file that says that the watcher has spoken


class Watch:
    """A rank's side: says what it does, and can't outlive a check's deadline.

    Args:
        rank: this process's.
        size: of the job.
        board: the ranks' common folder, or None for a single process.
        json_wanted: whether the last line is to be an object.
        facts: what the report begins with.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        board: Path | None,
        json_wanted: bool,
        facts: dict[str, str],
    ) -> None:
        self.rank, self.board = rank, board
        # Where the rank is when its time is over: written without Python's lock.
        self._folder = folder = board or Path(tempfile.mkdtemp(prefix="mindcv_ghost_doctor_"))
        self._due = float("inf")
        self._trace = open(folder / f"trace-rank{rank}", "w")  # noqa: SIM115 (lives with self)
        with contextlib.suppress(AttributeError, ValueError):
            faulthandler.register(signal.SIGUSR2, self._trace, all_threads=True)
        self._process: subprocess.Popen | None = None
        if rank == 0:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mindcv_ghost.doctor.watch"],
                env=with_package_path(os.environ),
                stdin=subprocess.PIPE,
                text=True,
            )
            self._tell(size=size, json=json_wanted, facts=facts, folder=str(folder))

    def begin(self, number: int, what: str, seconds: float) -> None:
        """A check begins, which has to be over after so many seconds.

        Args:
            number: of the check.
            what: its name.
            seconds: its deadline.
        """
        self._due = due = time.time() + seconds
        under_way = {"number": number, "what": what, "seconds": seconds, "due": due}
        under_way |= {"rank": self.rank, "pid": os.getpid(), "host": socket.gethostname()}
        if self.board is not None:
            path = self.board / f"now-rank{self.rank}.json"
            fresh = path.with_suffix(".fresh")
            fresh.write_text(json.dumps(under_way), encoding="utf-8")
            os.replace(fresh, path)
        self._tell(begin=under_way)
        # Other ranks leave a little later: rank 0's watcher speaks for all, and needs rank 0.
        leave = seconds + LEAVE_SECONDS + (2.0 if self.rank else 0.0)
        faulthandler.dump_traceback_later(leave, exit=True, file=self._trace)

    def end(self) -> None:
        """The check is over; doesn't return if the watcher has said, or will say, that it isn't."""
        if time.time() > self._due or (self._folder / _OVER).exists():
            # A signal or another rank's end may have freed it too late. The timer ends it, too.
            time.sleep(LEAVE_SECONDS + 2 * _MARGIN_SECONDS)
            exit_now(1)
        faulthandler.cancel_dump_traceback_later()
        if self.board is not None:
            with contextlib.suppress(OSError):
                (self.board / f"now-rank{self.rank}.json").unlink()
        self._tell(end=True)

    def found(self, finding: Finding) -> None:
        """Let the watcher know, which may have to finish the report."""
        self._tell(found=vars(finding))

    def close(self) -> None:
        """All is said; the watcher has nothing to add."""
        faulthandler.cancel_dump_traceback_later()
        self._tell(bye=True)
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        with contextlib.suppress(AttributeError, ValueError):
            faulthandler.unregister(signal.SIGUSR2)
        self._trace.close()
        if self.board is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, **message: object) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()


class Watcher:
    """The process beside rank 0.

    Args:
        messages: from :class:`Watch`, a JSON object a line.
        out, err: where to print.
        clock: the time in seconds; for tests.
    """

    def __init__(
        self,
        messages: IO[str],
        out: IO[str] = sys.stdout,
        err: IO[str] = sys.stderr,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.messages, self.out, self.err, self.clock = messages, out, err, clock
        self.report = Report()
        self.size, self.json, self.folder = 1, False, Path()
        self.under_way: dict | None = None
        self.interrupted = False
        self._since, self._reassured = 0.0, True
        self._seen: dict[tuple, float] = {}  # what was first seen when, by this host's clock

    def run(self) -> None:
        """Listen until rank 0 has said all, or something has to be said for it."""
        waiting = b""
        handle = self.messages.fileno()
        while True:
            if select.select([handle], [], [], _POLL_SECONDS)[0]:
                piece = os.read(handle, 1 << 16)
                if not piece:
                    self._died()
                    return
                *lines, waiting = (waiting + piece).split(b"\n")
                if any([self.take(json.loads(line)) for line in lines]):
                    return
            self._reassure()
            finding = self.overdue()
            if finding is not None:
                self._finish(finding)
                self._clean()
                return

    def take(self, message: dict) -> bool:
        """Note what the rank says; tells whether it was the last."""
        if "facts" in message:
            self.report.facts = message["facts"]
            self.size, self.json = message["size"], message["json"]
            self.folder = Path(message["folder"])
        if "begin" in message:
            self.under_way = message["begin"]
            self._since, self._reassured = self.clock(), False
        if "end" in message:
            self.under_way = None
        if "found" in message:
            self.report.findings.append(Finding(**message["found"]))
        return "bye" in message

    def _reassure(self) -> None:
        """Give a sign of life, and the deadline, of a check that takes its time."""
        if self.under_way is None or self._reassured:
            return
        if self.clock() - self._since > _QUIET_SECONDS:
            self._reassured = True
            limit = f"{self.under_way['seconds']:.0f} s"
            self.err.write(f"{'...':<8} {self.under_way['what']}: under way, for {limit} at most\n")
            self.err.flush()

    def overdue(self) -> Finding | None:
        """What has to be said: some rank's time is over, or one waits for others in vain."""
        ranks = self._ranks_under_way()
        late = [
            rank for rank, each in ranks.items() if self.clock() > self._due(each) + _MARGIN_SECONDS
        ]
        if late:
            first = ranks[late[0]]
            text = f"no end within {first['seconds']:.0f} s"
            if self.size > 1:
                text += f". {self._where(ranks)}"
            else:
                text += self._at(first)
            return Finding(first["what"], BROKEN, text, _REMEDY)
        if self.under_way is None or self.size == 1:
            return None
        return self._waiting_in_vain()

    def _due(self, under_way: dict) -> float:
        """When a check has to be over; another host's clock may go otherwise."""
        if under_way["host"] == socket.gethostname():
            return under_way["due"]
        began = ("began", under_way["rank"], under_way["number"])
        return self._seen.setdefault(began, self.clock()) + under_way["seconds"]

    def _waiting_in_vain(self) -> Finding | None:
        number, what = self.under_way["number"], self.under_way["what"]
        if (self.folder / f"check{number}-rank0.json").exists():
            return None  # rank 0 is waiting for findings, and speaks for itself
        for rank in range(1, self.size):
            path = self.folder / f"check{number}-rank{rank}.json"
            content = read(path)
            if content is None or content["state"] != BROKEN:
                continue
            since = self._seen.setdefault(("broken", rank, number), self.clock())
            if self.clock() - since > GRACE_SECONDS / 2:
                text = f"rank {rank}: {content['text']}; rank 0 waits for it"
                return Finding(what, BROKEN, text, content["remedy"])
        return None

    def _ranks_under_way(self) -> dict[int, dict]:
        if self.size == 1:
            return {} if self.under_way is None else {0: self.under_way}
        ranks = {rank: read(self.folder / f"now-rank{rank}.json") for rank in range(self.size)}
        return {rank: each for rank, each in ranks.items() if each is not None}

    def _where(self, ranks: dict[int, dict]) -> str:
        """Which check each rank is in, equal ones together."""
        groups: dict[str, list[int]] = {}
        for rank in range(self.size):
            each = ranks.get(rank)
            place = "between checks" if each is None else f"in {each['what']}{self._at(each)}"
            groups.setdefault(place, []).append(rank)
        parts = []
        for place, members in groups.items():
            shown = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
            parts.append(f"rank{'s' if len(members) > 1 else ''} {shown} {place}")
        return "; ".join(parts)

    def _at(self, under_way: dict | None) -> str:
        """Where in the code a rank is: it writes that down when it gets SIGUSR2."""
        if under_way is None or under_way["rank"] >= _TRACED:
            return ""
        if under_way["host"] != socket.gethostname():
            return f" (on {under_way['host']})"  # the number is another process's here
        with contextlib.suppress(OSError):
            os.kill(under_way["pid"], signal.SIGUSR2)
            time.sleep(0.2)
            trace = (self.folder / f"trace-rank{under_way['rank']}").read_text(errors="replace")
            place = place_of(trace)
            return f" (at {place})" if place else ""
        return ""

    def _died(self) -> None:
        """The rank has gone without a word."""
        if self.under_way is None or self.interrupted:
            return
        text = "the process died (a crash in native code, or somebody killed it)"
        self._finish(Finding(self.under_way["what"], BROKEN, text, "paste the block below"))
        self._clean()

    def _clean(self) -> None:
        """Remove what a rank that is ended by its timer leaves; it needs the folder until then."""
        if self.size == 1:
            with contextlib.suppress(OSError):
                os.read(self.messages.fileno(), 1)  # the end, when the rank has gone
            shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self, finding: Finding) -> None:
        with contextlib.suppress(OSError):
            (self.folder / _OVER).touch()
        self.report.findings.append(finding)
        people = self.err if self.json else self.out
        for line in finding.lines():
            people.write(line + "\n")
        people.write(self.report.ending() + "\n")
        people.flush()
        if self.json:
            self.out.write(self.report.as_json() + "\n")
            self.out.flush()


_REMEDY = (
    "if this machine is only slow, give it more time (--patience SECONDS); else paste the block "
    "below into an issue"
)


def place_of(trace: str) -> str:
    """The innermost line of this package in a traceback of faulthandler's main thread.

    >>> place_of('Current thread 0x1:\\n  File "/x/mindcv_ghost/engine/step.py", line 7 in run')
    'engine/step.py:7 in run'
    """
    threads = re.split(r"^(?:Current thread|Thread) .*$", trace, flags=re.MULTILINE)
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', threads[-1])
    for path, line, function in frames:
        _, inside, name = path.rpartition("mindcv_ghost/")
        if inside:
            return f"{name}:{line} in {function}"
    return f"{frames[0][0]}:{frames[0][1]} in {frames[0][2]}" if frames else ""


def main() -> None:
    """Entry point of ``python -m mindcv_ghost.doctor.watch``, with messages on standard input."""
    watcher = Watcher(sys.stdin)

    def interrupted(*_: object) -> None:
        watcher.interrupted = True

    # Of a terminal's Ctrl-C, too, which is for the rank.
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    watcher.run()


if __name__ == "__main__":
    main()
