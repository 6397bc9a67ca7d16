"""What the benchmarks share: printing rows, measuring in rounds within a time budget, launching.

A row is one line of JSON, which ``run_all.py`` collects. ``run_all.py`` sets each benchmark's
deadline in an environment variable (:data:`DEADLINE`). :class:`TimeBudget` keeps it: what can't be
measured in time is left out, and the rows that were measured are printed.
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
    "DEADLINE",
    "NOTE",
    "ROOT",
    "TimeBudget",
    "OutOfTime",
    "medians_of_rounds",
    "measure_rounds",
    "launcher_environ",
    "print_row",
    "run_launcher",
    "scratch_folder",
    "fail_if_left_out",
    "provenance",
]

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent  # mpirun and msrun are there
DEADLINE = (
    "MINDCV_GHOST_BENCHMARK_DEADLINE"  # a variable; by time.monotonic(), which all processes share
)
NOTE = "note: "  # run_all.py shows lines that begin with this
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
        benchmark: its name, which is also its table's on the performance page.
        case: what was measured, in words.
        value: our value.
        unit: of ``value`` and ``rival_value``: "images/s", "s", "s/step".
        rival: what it is compared with, measured in the same run.
        rival_value: the rival's value.
        ratio: how many times as good as the rival ours is; above 1 ours is better.
        goal: for ``ratio``, or for ``value`` if there is no rival: ">= 2" or "<= 0.33".
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
    """Raised within a measurement at the deadline."""


class TimeBudget:
    """The time that a benchmark may take.

    Args:
        seconds: from now; None: until the deadline that ``run_all.py`` has set, or without a limit
            if the benchmark was started by hand.
        clock: returns seconds; for tests.
    """

    def __init__(
        self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        if seconds is None:
            self._deadline = float(os.environ.get(DEADLINE, math.inf))
        else:
            self._deadline = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self._deadline - self.clock())

    @contextlib.contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise ``OutOfTime`` in the block, in the main thread, at the deadline.

        ``subprocess.run`` then kills its program. For launchers see :func:`run_launcher`.
        """
        left = self.left()
        if left == math.inf:
            yield
            return
        if not left:
            raise OutOfTime
        previous = signal.signal(signal.SIGALRM, _raise_out_of_time)
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder. Files that a killed program is still writing may remain."""
    folder = tempfile.mkdtemp()
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_launcher(command: list[str], **options) -> subprocess.CompletedProcess:
    """Run mpirun or msrun; return its output and status.

    At the deadline it is terminated first and killed 3 s later, so that it can end its ranks.
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


def measure_rounds(
    measures: dict[str, Callable[[], Value]],
    rounds: int,
    budget: TimeBudget,
    comparisons: int = 1,
) -> list[dict[str, Value]]:
    """Measure each of several programs once per round, so that a busy machine slows all alike.

    Args:
        measures: name -> function that measures. If time is short, the last ones are left out.
        rounds: number of rounds at most. A round begins only if there is time for one as long as
            the longest so far. A round that takes longer is stopped.
        budget: of the script.
        comparisons: number of comparisons to come, including this one. Rounds after the first have
            to fit into this one's share of the remaining time.

    Returns:
        per round, what each function returned; a round that was stopped lacks some.
    """
    share, began = budget.left() / comparisons, budget.clock()
    done: list[dict[str, Value]] = []
    longest = 0.0
    while len(done) < rounds:
        started = budget.clock()
        if done and started - began + longest > share:
            break
        values: dict[str, Value] = {}
        try:
            with budget.enforced():
                for name, measure in measures.items():
                    values[name] = measure()
        except OutOfTime:
            if values:
                done.append(values)
            break
        done.append(values)
        longest = max(longest, budget.clock() - started)
    complete = sum(len(values) == len(measures) for values in done)
    if complete < rounds:
        print(f"{NOTE}{complete} complete rounds of {rounds}, no time for more", flush=True)
    return done


def medians_of_rounds(
    measures: dict[str, Callable[[], float]],
    rounds: int,
    budget: TimeBudget,
    comparisons: int = 1,
) -> dict[str, float]:
    """Return each measure's median over the complete rounds; see :func:`measure_rounds`.

    If no round is complete, return what the first one measured.
    """
    done = measure_rounds(measures, rounds, budget, comparisons)
    counted = [values for values in done if len(values) == len(measures)] or done
    names = [name for name in measures if counted and name in counted[0]]
    return {name: statistics.median(values[name] for values in counted) for name in names}


def fail_if_left_out(what: Iterable[str]) -> None:
    """End a script that has printed its rows with an error if rows had to be left out.

    ``run_all.py`` then keeps the rows of an earlier run, and the page names the failure.

    Args:
        what: names of what was left out.
    """
    names = list(what)
    if names:
        raise SystemExit(f"no time was left for: {'; '.join(names)}")


def _raise_out_of_time(*_) -> None:
    raise OutOfTime


def provenance(*rivals: str) -> dict[str, str]:
    """Return what every recorded row has: ``machine``, ``versions``, ``commit`` and ``date``.

    Args:
        rivals: further packages whose versions are recorded, if they are installed.
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
    """Return the environment for mpirun and msrun: this tree, this Python's programs, any user."""
    return dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
