"""What benchmarks share: rows (one line of JSON each, for ``run_all.py``), turns, launching.

``run_all.py`` tells a benchmark through ``ENDS_AT`` in its environment when it has to have ended.
``Allowance`` keeps to that: what can't be measured by then is left out, the rest is printed.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TypeVar

__all__ = [
    "BIN",
    "ENDS_AT",
    "NOTE",
    "ROOT",
    "Allowance",
    "OutOfTime",
    "alternate",
    "in_turn",
    "launcher_environ",
    "print_row",
    "run_launcher",
    "scratch_folder",
    "tell_left_out",
    "where_and_when",
]

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent  # mpirun and msrun are there
ENDS_AT = "MINDCV_GHOST_BENCHMARK_ENDS_AT"  # by time.monotonic(), which is the whole system's
NOTE = "note: "  # what a line begins with that run_all.py shows, beside the rows
Value = TypeVar("Value")


def print_row(
    benchmark: str,
    case: str,
    value: float,
    unit: str,
    rival: str = "",
    rival_value: float | None = None,
    ratio: float | None = None,
    goal: str = "",
) -> None:
    """Print a row.

    Args:
        benchmark: its name, a table on the page of performance.
        case: what was measured, in words.
        value: what came out, ours.
        unit: of ``value`` and ``rival_value``: "images/s", "s", "s/step".
        rival: what was measured beside it, in the same run.
        rival_value: what came out for the rival.
        ratio: how many times as good ours is; above 1 it is ahead of the rival.
        goal: what ``ratio`` (or without one, ``value``) was to reach: ">= 2" or "<= 0.33".
    """
    row = {
        "benchmark": benchmark,
        "case": case,
        "value": _rounded(value),
        "unit": unit,
        "rival": rival,
        "rival_value": _rounded(rival_value),
        "ratio": _rounded(ratio),
        "goal": goal,
    }
    print(json.dumps(row), flush=True)


class OutOfTime(Exception):
    """Raised within a measurement when the allowance is over."""


class Allowance:
    """The time that a benchmark may take.

    Args:
        seconds: from now on; ``None``: those that ``run_all.py`` gives this process, without end
            if a person has started it.
        clock: for tests.
    """

    def __init__(
        self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        if seconds is None:
            self._ends_at = float(os.environ.get(ENDS_AT, math.inf))
        else:
            self._ends_at = clock() + seconds

    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._ends_at - self.clock())

    @contextlib.contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise ``OutOfTime`` in the block when the time is over, in the main thread.

        ``subprocess.run`` ends its program on the way; see ``run_launcher`` for those of ranks.
        """
        left = self.left()
        if left == math.inf:
            yield
            return
        if not left:
            raise OutOfTime
        former = signal.signal(signal.SIGALRM, _raise_out_of_time)
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the block; what a program that is just being ended still writes may stay."""
    folder = tempfile.mkdtemp()
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_launcher(command: list[str], **options) -> subprocess.CompletedProcess:
    """Run mpirun or msrun; gives its output.

    When time is over it may end its ranks before it is killed, as they would go on without it.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options) as process:
        try:
            out, errors = process.communicate()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def in_turn(
    measures: dict[str, Callable[[], Value]],
    rounds: int,
    allowance: Allowance,
    comparisons: int = 1,
) -> list[dict[str, Value]]:
    """What each measure gave in each round; in turn, so that a busy machine slows all of them.

    Args:
        measures: what is left out for lack of time is at the end of these.
        rounds: at most so many; none is begun for which less time is left than the longest took.
            One that takes longer all the same is broken off: what it has measured is in the list.
        allowance: of the script.
        comparisons: how many are still to come, this one among them. Rounds after the first have
            to fit into this one's share of what is left.
    """
    share, begun = allowance.left() / comparisons, allowance.clock()
    done: list[dict[str, Value]] = []
    longest = 0.0
    while len(done) < rounds:
        started = allowance.clock()
        if done and started - begun + longest > share:
            break
        values: dict[str, Value] = {}
        try:
            with allowance.enforced():
                for name, measure in measures.items():
                    values[name] = measure()
        except OutOfTime:
            if values:
                done.append(values)
            break
        done.append(values)
        longest = max(longest, allowance.clock() - started)
    whole = sum(len(values) == len(measures) for values in done)
    if whole < rounds:
        print(f"{NOTE}{whole} whole rounds of {rounds}, no time for more", flush=True)
    return done


def alternate(
    measures: dict[str, Callable[[], float]],
    rounds: int,
    allowance: Allowance,
    comparisons: int = 1,
) -> dict[str, float]:
    """Median of each measure over the whole rounds; see ``in_turn``.

    If not even the first was whole, what it has measured.
    """
    done = in_turn(measures, rounds, allowance, comparisons)
    whole = [values for values in done if len(values) == len(measures)] or done
    names = [name for name in measures if whole and name in whole[0]]
    return {name: statistics.median(values[name] for values in whole) for name in names}


def tell_left_out(what: Iterable[str]) -> None:
    """End a script that has printed its rows as failed if there was no time for some of them.

    ``run_all.py`` then keeps these rows of an earlier run, and the page says why.
    """
    names = list(what)
    if names:
        raise SystemExit(f"no time was left for: {'; '.join(names)}")


def _raise_out_of_time(*_) -> None:
    raise OutOfTime


def where_and_when(*rivals: str) -> dict[str, str]:
    """What every recorded row carries: ``machine``, ``versions``, ``commit`` and ``date``.

    Args:
        rivals: packages whose versions count as well, where they are installed.
    """
    from mindcv_ghost import compat
    from mindcv_ghost.report.hardware import describe_hardware
    from mindcv_ghost.storage.provenance import source_commit

    versions = compat.installed_versions()
    for name in rivals:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "machine": describe_hardware(),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "commit": source_commit() or "none",
        "date": datetime.date.today().isoformat(),
    }


def launcher_environ() -> dict[str, str]:
    """For mpirun and msrun: this tree's package, this Python's programs, any user."""
    return dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
