"""What benchmarks share: rows (one line of JSON each, for ``run_all.py``), turns, launching."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

__all__ = ["BIN", "ROOT", "alternate", "launcher_environ", "print_row", "where_and_when"]

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent  # mpirun and msrun are there


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


def alternate(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of each measure; they take turns, so that a busy machine slows all of them."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return {name: statistics.median(each) for name, each in values.items()}


def where_and_when(*rivals: str) -> dict[str, str]:
    """What every recorded row carries: ``machine``, ``versions``, ``commit`` and ``date``.

    Args:
        rivals: packages whose versions count as well, where they are installed.
    """
    from mindcv_ghost import compat
    from mindcv_ghost.engine.run_folder import source_commit
    from mindcv_ghost.report.hardware import describe_hardware

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
