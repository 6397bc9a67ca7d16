"""Trainings into which faults are injected, and a count of the faults."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from safetensors import safe_open

from mindcv_ghost.storage.training_state import open_state

from ..e2e.conftest import (  # noqa: F401 (images is a fixture)
    BIN,
    ROOT,
    SIDE,
    images,
    launcher_environment,
    marked_processes,
    recipe,
    rows,
)
from ..helpers.processes import kill_all

SCRIPT = Path(__file__).with_name("tiny.py")
CLOCKS = {"images_per_second", "epoch_seconds", "compile_seconds"}
START_SECONDS = 120
END_SECONDS = 30  # the promise: from the death of a process to the end of the job
STOP_SECONDS = 20  # the promise: from a signal to the exit of a small run
counts = {"injected": 0, "survived": 0}


def pytest_terminal_summary(terminalreporter):
    if counts["injected"]:
        lost = counts["injected"] - counts["survived"]
        terminalreporter.write_line(
            f"{counts['injected']} faults injected, {counts['survived']} survived, {lost} lost"
        )


class Run:
    """A training in a folder, restarted as often as needed.

    Args:
        folder: where its run folder ``run`` lies.
        images: to train on.
        ranks: under mpirun if several.
    """

    def __init__(self, folder: Path, images: Path, ranks: int = 1) -> None:  # noqa: F811
        self.folder, self.ranks = folder, ranks
        self.run = folder / "run"
        self.mark = f"RUN_MARK={uuid.uuid4().hex}"
        self.injected = 0
        self.process: subprocess.Popen | None = None
        self.options = recipe(
            *(images,),
            model="tiny",
            batch_size=8 // ranks,
            image_resize=SIDE,
            epoch_size=3,
            scheduler="cosine_decay",
            decay_epochs=3,
            log_interval=1,
            ema="true",
            mixup=0.2,
            auto_augment="randaug-m5",
            re_prob=0.3,
            amp_level="O2",
            loss_scale_type="dynamic",
            loss_scale=4096,
            gradient_accumulation_steps=2,
            clip_grad="true",
            save_every_steps=2,
            resume="auto",
            ckpt_save_dir=self.run,
        )

    def start(self, **slow: float) -> None:
        """Start the training; ``STEP_SECONDS`` and ``WRITE_SECONDS`` slow it down."""
        name, value = self.mark.split("=")
        environ = {**launcher_environment(), name: value, "PYTHONPATH": str(ROOT)}
        environ |= {key: str(seconds) for key, seconds in slow.items()}
        command = [sys.executable, str(SCRIPT), *self.options]
        if self.ranks > 1:
            command = [str(BIN / "mpirun"), "--oversubscribe", "-n", str(self.ranks), *command]
        self.output = open(self.folder / "output.txt", "w")  # noqa: SIM115 (the process's)
        self.process = subprocess.Popen(
            command,
            env=environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        return (self.folder / "output.txt").read_text()

    def wait_for_step(self, number: int) -> bool:
        """Wait for so many batches since the latest start; False if the run ended before."""
        deadline = time.monotonic() + START_SECONDS
        while len(re.findall(r" step \d+/\d+ loss", self.text)) < number:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        return True

    def wait_for_save(self) -> bool:
        """Wait until a save has begun; False if the run ended before."""
        deadline = time.monotonic() + START_SECONDS
        while not list((self.run / "resume").glob(".*.tmp")):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.text
            time.sleep(0.002)
        return True

    def alive(self) -> list[int]:
        return marked_processes(self.mark)

    def end(self, seconds: float) -> int:
        """Wait until no process is left; return the launcher's status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None or self.alive():
            assert time.monotonic() < deadline, f"left: {self.alive()}\n{self.text}"
            time.sleep(0.05)
        self.output.close()
        return self.process.returncode

    def send(self, number: int) -> None:
        """Send a signal to the single rank, or to the launcher of several."""
        target = self.process.pid
        for pid in self.alive() if self.ranks > 1 else ():
            # The PyPI package's mpirun is a wrapper that forwards no signals.
            if "prterun" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]:
                target = pid
        os.kill(target, number)

    def kill_one(self, draw: random.Random) -> None:
        """SIGKILL a random process of the run."""
        os.kill(draw.choice(self.alive()), signal.SIGKILL)

    def finish(self) -> None:
        """Run to the end without faults."""
        self.start()
        assert self.end(START_SECONDS) == 0, self.text

    def states(self) -> list[Path]:
        return sorted((self.run / "resume").glob("*.safetensors"))

    def outcome(self) -> tuple[dict[str, bytes], list[dict]]:
        """Return what must be equal: all arrays, and the rows of metrics.csv without times."""
        path = self.states()[-1]
        assert open_state(path).facts["position"]["epoch"] == 3
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
        table = [{k: v for k, v in r.items() if k not in CLOCKS} for r in rows(self.run)]
        return arrays, table

    def injects(self) -> None:
        counts["injected"] += 1
        self.injected += 1

    def is_equal_to(self, whole: Run) -> None:
        """Compare bit for bit; then the faults so far count as survived."""
        ours, theirs = self.outcome(), whole.outcome()
        different = [name for name in theirs[0] if ours[0].get(name) != theirs[0][name]]
        assert different == []
        assert ours == theirs
        counts["survived"] += self.injected


@pytest.fixture(scope="session")
def whole(images, tmp_path_factory):  # noqa: F811
    """Runs without faults, by number of ranks."""
    made = {}

    def get(ranks: int) -> Run:
        if ranks not in made:
            made[ranks] = Run(tmp_path_factory.mktemp(f"whole{ranks}"), images, ranks)
            made[ranks].finish()
        return made[ranks]

    return get


@pytest.fixture
def new_run(images, tmp_path):  # noqa: F811
    made = []

    def make(ranks: int = 1) -> Run:
        made.append(Run(tmp_path, images, ranks))
        return made[-1]

    yield make
    for run in made:
        kill_all(run.alive())
