"""The set-up of the tests keeps the launches of different tests apart."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..conftest import LAUNCH_FOLDER

LAUNCH = (str(Path(sys.executable).with_name("mpirun")), "--oversubscribe", "-n", "1")
ROOT_ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def test_a_killed_mpirun_leaves_its_folder_where_no_other_test_starts_one():
    folder = Path(os.environ[LAUNCH_FOLDER])
    launch = subprocess.Popen(
        [*LAUNCH, "sh", "-c", "echo started; exec cat"],
        env={**os.environ, **ROOT_ALLOWED},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launch.stdout.readline() == "started\n"
    launch.kill()
    launch.communicate(timeout=60)
    assert [path.name for path in folder.iterdir()] == [f"ompi.{launch.pid}"]
    assert not Path(tempfile.gettempdir(), f"ompi.{launch.pid}").exists()


def test_every_test_has_a_folder_for_launches_of_its_own():
    folder = Path(os.environ[LAUNCH_FOLDER])
    assert not folder.exists()
