"""Ends a check that exceeds its time limit, and prints the report, even if the rank hangs.

MindSpore computes and communicates while it holds Python's global lock, so a thread of a rank that
hangs could never run. Two things that don't need the lock take its place:

- a process beside rank 0 (:class:`WatchdogProcess`). It knows the results so far and the time limit
  of the running check. If the limit passes or rank 0 dies, it prints the rest of the report;
- ``faulthandler``'s timer thread in each rank, which is written in C. Some seconds later it ends
  the rank with status 1. The ranks' supervisors then end the job.
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

from mindcv_ghost.doctor.exchange import GRACE_SECONDS, read_json_if_there
from mindcv_ghost.doctor.report import BROKEN, CheckResult, Report
from mindcv_ghost.launch.environment import with_package_path
from mindcv_ghost.launch.processes import exit_now

__all__ = ["EXIT_DELAY_SECONDS", "Watchdog", "WatchdogProcess", "main"]

EXIT_DELAY_SECONDS = 6.0
"""From a check's time limit, when the watchdog process prints, to the end of the rank."""

_POLL_SECONDS = 0.5
_MARGIN_SECONDS = 1.0  # for a check that ends just in time to report so
_QUIET_SECONDS = 15.0  # after this, print a running check's time limit
_MAX_TRACES = 8  # ranks whose current line of code is shown
_OVER = "over"  # file that exists once the watchdog process has printed the report
_REMEDY = (
    "if this machine is only slow, give it more time (--patience SECONDS); else paste the block "
    "below into an issue"
)


class Watchdog:
    """A rank's side: announces each check, and ends this process when a limit has passed.

    Args:
        rank: this process's.
        size: number of ranks.
        folder: the ranks' exchange folder, or None for a single process.
        json_wanted: whether the last line is to be a JSON object.
        facts: the report's first lines.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        folder: Path | None,
        json_wanted: bool,
        facts: dict[str, str],
    ) -> None:
        self.rank = rank
        self._is_shared = folder is not None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="mindcv_ghost_doctor_"))
        self._due = float("inf")
        # faulthandler writes the rank's stack there, without needing Python's lock.
        self._trace = open(self._folder / f"trace-rank{rank}", "w")  # noqa: SIM115 (lives with self)
        with contextlib.suppress(AttributeError, ValueError):
            faulthandler.register(signal.SIGUSR2, self._trace, all_threads=True)
        self._process: subprocess.Popen | None = None
        if rank == 0:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mindcv_ghost.doctor.watchdog"],
                env=with_package_path(os.environ),
                stdin=subprocess.PIPE,
                text=True,
            )
            self._send(size=size, json=json_wanted, facts=facts, folder=str(self._folder))

    def begin(self, number: int, what: str, seconds: float) -> None:
        """Announce a check, and start its timer.

        Args:
            number: of the check.
            what: its name.
            seconds: its time limit.
        """
        self._due = due = time.time() + seconds
        running = {"number": number, "what": what, "seconds": seconds, "due": due}
        running |= {"rank": self.rank, "pid": os.getpid(), "host": socket.gethostname()}
        if self._is_shared:
            path = self._folder / f"now-rank{self.rank}.json"
            temporary = path.with_suffix(".fresh")
            temporary.write_text(json.dumps(running), encoding="utf-8")
            os.replace(temporary, path)
        self._send(begin=running)
        # Other ranks exit a little later: rank 0's watchdog process reports for all of them.
        delay = seconds + EXIT_DELAY_SECONDS + (2.0 if self.rank else 0.0)
        faulthandler.dump_traceback_later(delay, exit=True, file=self._trace)

    def end(self) -> None:
        """Announce the check's end; doesn't return if its time limit has passed."""
        if time.time() > self._due or (self._folder / _OVER).exists():
            # The watchdog process has reported the check as hanging, or will. A signal or another
            # rank's end may have released this rank too late.
            time.sleep(EXIT_DELAY_SECONDS + 2 * _MARGIN_SECONDS)
            exit_now(1)
        faulthandler.cancel_dump_traceback_later()
        if self._is_shared:
            with contextlib.suppress(OSError):
                (self._folder / f"now-rank{self.rank}.json").unlink()
        self._send(end=True)

    def add_result(self, result: CheckResult) -> None:
        """Send a result to the watchdog process, which may have to finish the report."""
        self._send(result=vars(result))

    def close(self) -> None:
        """Stop the watchdog process: the report is complete."""
        faulthandler.cancel_dump_traceback_later()
        self._send(bye=True)
        if self._process is not None:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        with contextlib.suppress(AttributeError, ValueError):
            faulthandler.unregister(signal.SIGUSR2)
        self._trace.close()
        if not self._is_shared:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, **message: object) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()


class WatchdogProcess:
    """The process beside rank 0.

    Args:
        messages: from :class:`Watchdog`, one JSON object per line.
        out: standard output.
        err: standard error.
        clock: returns the time in seconds; for tests.
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
        self.running: dict | None = None
        self.interrupted = False
        self._since, self._limit_is_shown = 0.0, True
        self._first_seen: dict[tuple, float] = {}  # events of other hosts, by this host's clock

    def run(self) -> None:
        """Listen until rank 0 has finished, or until its report has to be finished here."""
        rest = b""
        handle = self.messages.fileno()
        while True:
            if select.select([handle], [], [], _POLL_SECONDS)[0]:
                received = os.read(handle, 1 << 16)
                if not received:
                    self._report_death()
                    return
                *lines, rest = (rest + received).split(b"\n")
                if any([self.take(json.loads(line)) for line in lines]):
                    return
            self._show_limit()
            result = self.overdue()
            if result is not None:
                self._finish(result)
                self._clean_up()
                return

    def take(self, message: dict) -> bool:
        """Process a message; returns whether it was the last one."""
        if "facts" in message:
            self.report.facts = message["facts"]
            self.size, self.json = message["size"], message["json"]
            self.folder = Path(message["folder"])
        if "begin" in message:
            self.running = message["begin"]
            self._since, self._limit_is_shown = self.clock(), False
        if "end" in message:
            self.running = None
        if "result" in message:
            self.report.results.append(CheckResult(**message["result"]))
        return "bye" in message

    def _show_limit(self) -> None:
        """Print the time limit of a check that has been running for a while, once."""
        if self.running is None or self._limit_is_shown:
            return
        if self.clock() - self._since > _QUIET_SECONDS:
            self._limit_is_shown = True
            limit = f"{self.running['seconds']:.0f} s"
            self.err.write(f"{'...':<8} {self.running['what']}: running, for {limit} at most\n")
            self.err.flush()

    def overdue(self) -> CheckResult | None:
        """Return a result if a rank exceeds its limit, or waits for one that has failed."""
        running = self._running_by_rank()
        late = [
            rank
            for rank, each in running.items()
            if self.clock() > self._due(each) + _MARGIN_SECONDS
        ]
        if late:
            first = running[late[0]]
            text = f"no end within {first['seconds']:.0f} s"
            text += f". {self._where(running)}" if self.size > 1 else self._line_of_code(first)
            return CheckResult(first["what"], BROKEN, text, _REMEDY)
        if self.running is None or self.size == 1:
            return None
        return self._waits_in_vain(self.running["number"], self.running["what"])

    def _due(self, running: dict) -> float:
        """Return when a check must have ended, by this host's clock."""
        if running["host"] == socket.gethostname():
            return running["due"]
        began = ("began", running["rank"], running["number"])
        return self._first_seen.setdefault(began, self.clock()) + running["seconds"]

    def _waits_in_vain(self, number: int, what: str) -> CheckResult | None:
        """Return a result if rank 0 waits, in a collective, for a rank that has failed."""
        if (self.folder / f"check{number}-rank0.json").exists():
            return None  # rank 0 waits for results, and reports missing ranks itself
        for rank in range(1, self.size):
            content = read_json_if_there(self.folder / f"check{number}-rank{rank}.json")
            if content is None or content["state"] != BROKEN:
                continue
            since = self._first_seen.setdefault(("broken", rank, number), self.clock())
            if self.clock() - since > GRACE_SECONDS / 2:
                text = f"rank {rank}: {content['text']}; rank 0 waits for it"
                return CheckResult(what, BROKEN, text, content["remedy"])
        return None

    def _running_by_rank(self) -> dict[int, dict]:
        if self.size == 1:
            return {} if self.running is None else {0: self.running}
        running = {
            rank: read_json_if_there(self.folder / f"now-rank{rank}.json")
            for rank in range(self.size)
        }
        return {rank: each for rank, each in running.items() if each is not None}

    def _where(self, running: dict[int, dict]) -> str:
        """Describe which check each rank is in; ranks at the same place are grouped."""
        groups: dict[str, list[int]] = {}
        for rank in range(self.size):
            each = running.get(rank)
            place = (
                "between checks" if each is None else f"in {each['what']}{self._line_of_code(each)}"
            )
            groups.setdefault(place, []).append(rank)
        parts = []
        for place, members in groups.items():
            shown = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
            parts.append(f"rank{'s' if len(members) > 1 else ''} {shown} {place}")
        return "; ".join(parts)

    def _line_of_code(self, running: dict) -> str:
        """Find the line that a rank executes: faulthandler writes its stack on SIGUSR2."""
        if running["rank"] >= _MAX_TRACES:
            return ""
        if running["host"] != socket.gethostname():
            return f" (on {running['host']})"  # here the pid belongs to another process
        with contextlib.suppress(OSError):
            os.kill(running["pid"], signal.SIGUSR2)
            time.sleep(0.2)
            trace = (self.folder / f"trace-rank{running['rank']}").read_text(errors="replace")
            line = innermost_line(trace)
            return f" (at {line})" if line else ""
        return ""

    def _report_death(self) -> None:
        """Finish the report after rank 0 has died within a check."""
        if self.running is None or self.interrupted:
            return
        text = "the process died (a crash in native code, or it was killed)"
        self._finish(CheckResult(self.running["what"], BROKEN, text, "paste the block below"))
        self._clean_up()

    def _clean_up(self) -> None:
        """Remove a single process's folder once the process has ended; it needs it until then."""
        if self.size == 1:
            with contextlib.suppress(OSError):
                os.read(self.messages.fileno(), 1)  # returns when the process has ended
            shutil.rmtree(self.folder, ignore_errors=True)

    def _finish(self, result: CheckResult) -> None:
        with contextlib.suppress(OSError):
            (self.folder / _OVER).touch()
        self.report.results.append(result)
        stream = self.err if self.json else self.out
        for line in result.lines():
            stream.write(line + "\n")
        stream.write(self.report.closing() + "\n")
        stream.flush()
        if self.json:
            self.out.write(self.report.as_json() + "\n")
            self.out.flush()


def innermost_line(trace: str) -> str:
    r"""Return this package's innermost line in faulthandler's traceback of the main thread.

    >>> innermost_line('Current thread 0x1:\n  File "/x/mindcv_ghost/run/model.py", line 7 in f')
    'run/model.py:7 in f'
    """
    threads = re.split(r"^(?:Current thread|Thread) .*$", trace, flags=re.MULTILINE)
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', threads[-1])
    for path, line, function in frames:
        _, inside, name = path.rpartition("mindcv_ghost/")
        if inside:
            return f"{name}:{line} in {function}"
    return f"{frames[0][0]}:{frames[0][1]} in {frames[0][2]}" if frames else ""


def main() -> None:
    """Entry point of ``python -m mindcv_ghost.doctor.watchdog``; reads standard input."""
    process = WatchdogProcess(sys.stdin)

    def note_interrupt(*_: object) -> None:
        process.interrupted = True

    # A terminal's Ctrl-C, which is meant for the rank, reaches this process, too.
    signal.signal(signal.SIGINT, note_interrupt)
    signal.signal(signal.SIGTERM, note_interrupt)
    process.run()


if __name__ == "__main__":
    main()
