"""Whole runs of train.py and validate.py on a fake device."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ..e2e.conftest import (  # noqa: F401 (images is a fixture)
    BIN,
    ROOT,
    Done,
    Scripts,
    images,
    marked_processes,
    recipe,
    rows,
)
from ..helpers.processes import killed_if_it_fails
from .fake_device import record
from .fake_device.checks import check_records
from .fake_device.register import build

ON_DEVICE = Path(__file__).with_name("on_device.py")
COMPILERS = ("c++", "g++", "clang++")


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """The library with the device's operators."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    return build(tmp_path_factory.mktemp("fake_device"), compiler)


class Host(Scripts):
    """A host with fake devices; scripts run in a folder of the test.

    Args:
        cwd: the folder.
        library: with the device's operators.
        root: folder of the scripts.
    """

    def __init__(self, cwd: Path, library: Path, root: Path | None = None) -> None:
        super().__init__(cwd)
        # FAKE_DEVICE_ROOT: test another checkout's scripts.
        self.root = root or Path(os.environ.get("FAKE_DEVICE_ROOT", ROOT))
        self.environ["FAKE_DEVICE_LIBRARY"] = str(library)
        self.records: list[list[dict]] = []

    def command(
        self, device: str, script: str | Path, *args, ranks: int = 1, launcher: str = "mpirun"
    ) -> list:
        command = [sys.executable, ON_DEVICE, device, self.root / script, *args]
        if launcher == "msrun":
            msrun = [BIN / "msrun", "--worker_num", ranks, "--local_worker_num", ranks]
            return [*msrun, "--master_port", free_port(), "--join", "True", *command[1:]]
        if ranks > 1:
            command = [BIN / "mpirun", "--oversubscribe", "-n", ranks, *command]
        return command

    def on(
        self,
        device: str,
        script: str | Path,
        *args,
        ranks: int = 1,
        launcher: str = "mpirun",
        status: int = 0,
        **settings,
    ) -> Done:
        """Run a script on a device; its ranks' calls are then in ``self.records``.

        Args:
            device: Ascend, GPU, or CPU for an unchanged MindSpore.
            script: its path, relative to the root.
            args: its arguments.
            ranks: number of processes; several are started by the launcher.
            launcher: mpirun or msrun.
            status: expected exit status. If it is 0, the records are checked, too.
            settings: environment variables.
        """
        log = self.new_log()
        before = dict(self.environ)
        self.environ.update({name: str(value) for name, value in settings.items()})
        self.environ["FAKE_DEVICE_LOG"] = str(log)
        try:
            command = self.command(device, script, *args, ranks=ranks, launcher=launcher)
            done = self.run(*command, status=None)
        finally:
            self.environ = before
        self.records = record.read(log)
        assert done.status == status, done.out + done.err
        if status == 0:
            check_records(self.records)
        return done

    def new_log(self) -> Path:
        return self.cwd / "records" / uuid.uuid4().hex

    def train(self, device: str, images: Path, *, name: str, **more) -> Done:  # noqa: F811
        """Train the tiny network. Upper-case arguments are environment variables; ``ranks`` and
        ``status`` are those of ``on``; all others are keys of the recipe."""
        ranks, status = more.pop("ranks", 1), more.pop("status", 0)
        settings = {key: more.pop(key) for key in list(more) if key.isupper()}
        options = tiny(images, device, name, **more)
        return self.on(device, "train.py", *options, ranks=ranks, status=status, **settings)

    def train_until(
        self,
        device: str,
        images: Path,  # noqa: F811
        *,
        name: str,
        steps: int,
        number: int,
        **more,
    ) -> Done:
        """Start a training, and send it a signal after a number of steps."""
        ranks = more.pop("ranks", 1)
        log, mark = self.new_log(), f"RUN_MARK={uuid.uuid4().hex}"
        options = tiny(images, device, name, **more)
        environ = {
            **self.environ,
            "FAKE_DEVICE_LOG": str(log),
            "FAKE_DEVICE_STEP_SECONDS": "0.2",
            "RUN_MARK": mark.partition("=")[2],
        }
        process = subprocess.Popen(
            [str(part) for part in self.command(device, "train.py", *options, ranks=ranks)],
            cwd=self.cwd,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while steps_done(log) < steps and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        target = process.pid
        for pid in marked_processes(mark) if ranks > 1 else ():
            # The mpirun of PyPI's package is a wrapper that doesn't forward signals.
            if "prterun" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]:
                target = pid
        os.kill(target, number)
        with killed_if_it_fails(process):
            out, err = process.communicate(timeout=120)
        # mpirun doesn't wait for ranks that it has terminated; they may still be saving.
        deadline = time.monotonic() + 120
        while marked_processes(mark):
            assert time.monotonic() < deadline, marked_processes(mark)
            time.sleep(0.05)
        self.records = record.read(log)
        check_records(self.records)
        return Done(process.returncode, out, err)

    def weights(self, name: str) -> bytes:
        """Read the last checkpoint of a run."""
        return (self.cwd / name / "last.ckpt").read_bytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def steps_done(log: Path) -> int:
    path = log / "rank0.jsonl"
    if not path.exists():
        return 0
    return sum(
        '"cell": "TrainStep", "phase"' in line or '"cell": "DataWrapper", "phase"' in line
        for line in path.read_text().splitlines()
        if '"call": "cell"' in line
    )


def tiny(images: Path, device: str, name: str, **changes) -> list[str]:  # noqa: F811
    """Return options of a training of ``device_tiny``: two epochs of six batches of eight."""
    options = {"model": "device_tiny", "device_target": device, "val_while_train": "false"}
    return recipe(images, ckpt_save_dir=name, **{**options, **changes})


@pytest.fixture
def host(tmp_path, library) -> Host:
    return Host(tmp_path, library)
