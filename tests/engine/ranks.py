"""Runs scripts that need several ranks and check themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


def run_on_ranks(ranks: int, script: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script under mpirun, as any user and with any number of cores."""
    environ = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )
    command = [str(BIN / "mpirun"), "--oversubscribe", "-n", str(ranks)]
    return subprocess.run(
        [*command, sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=600,
    )
