"""Runs the scripts in this folder that need several ranks and check themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


def run_on_two_ranks(script: str) -> None:
    """Run a script under mpirun; rank 0 must print OK, and all ranks must exit with 0."""
    environ = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )
    path = Path(__file__).with_name(script)
    done = subprocess.run(
        [str(BIN / "mpirun"), "--oversubscribe", "-n", "2", sys.executable, str(path)],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "OK"
