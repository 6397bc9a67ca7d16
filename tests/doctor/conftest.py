"""The doctor as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from ..e2e.conftest import BIN, ROOT, launcher_environment
from ..helpers.processes import killed_if_it_fails

SCRIPT = Path(__file__).with_name("one_check.py")
MPIRUN = [str(BIN / "mpirun"), "--oversubscribe", "-n", "2"]
Done = namedtuple("Done", "status out err")


class Doctor:
    """Starts the doctor in a test's folder."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environ = {**launcher_environment(), "PYTHONPATH": str(ROOT), "PATH": path}
        # Ranks that are ended within a check leave their exchange folder there.
        self.environ["TMPDIR"] = str(temporary)

    def start(self, *command: object, **environ: str) -> subprocess.Popen:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen, timeout: float = 600) -> Done:
        with killed_if_it_fails(process):
            out, err = process.communicate(timeout=timeout)
        return Done(process.returncode, out, err)

    @property
    def script(self) -> list[str]:
        return [sys.executable, str(SCRIPT)]

    def run(self, *options: object, **environ: str) -> Done:
        command = (sys.executable, "-m", "mindcv_ghost.doctor", *options)
        return self.end(self.start(*command, **environ))

    def one_check(self, *options: object, launcher: tuple[str, ...] = (), **environ: str) -> Done:
        """Run the checks of one_check.py; without MindSpore."""
        return self.end(self.start(*launcher, *self.script, *options, **environ), 240)


@pytest.fixture
def doctor(tmp_path, tmp_path_factory) -> Doctor:
    return Doctor(tmp_path, tmp_path_factory.mktemp("t"))


def lines_of(text: str) -> dict[str, tuple[str, str]]:
    """Parse the lines before the block to paste: ``what -> (state, text)``."""
    found = {}
    for line in text.partition("---- paste from here")[0].splitlines():
        state, _, rest = line.partition(" ")
        if state in ("ok", "slow", "broken", "skipped"):
            what, _, result = rest.strip().partition(": ")
            found[what] = (state, result)
    return found


def object_of(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])
