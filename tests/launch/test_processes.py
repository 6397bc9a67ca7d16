"""What a rank learns of the process that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A rank's parent is its supervisor, and that has the rank's own environment.
CODE = """
import os
os.environ["OWN"] = "rank"
if os.fork() == 0:
    from mindcv_ghost.launch.processes import launcher_environment
    found = launcher_environment()
    print(found.get("GIVEN"), found.get("OWN"), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mpirun", "all launcher"),
        ("msrun", "all launcher"),
        ("slurmstepd", "all launcher"),
        ("some_other_launcher", "None None"),
    ],
)
def test_a_launcher_is_known_by_its_name_and_no_other_parent_is_taken_for_one(tmp_path, name, told):
    script = tmp_path / name
    script.write_text(f'#!/bin/sh\nGIVEN=all "{sys.executable}" -c "$CODE"\nexit 0\n')
    script.chmod(0o755)
    environ = {"CODE": CODE, "OWN": "launcher", "GIVEN": "all", "PYTHONPATH": str(ROOT)}
    # Started by a process that has ended, so that whatever runs this test isn't above it.
    starter = "import subprocess, sys; subprocess.Popen(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", starter, str(script)],
        capture_output=True,
        text=True,
        env={**environ, "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.stdout.strip() == told, done.stderr
