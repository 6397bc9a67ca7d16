"""Real scripts on real images, as a user starts them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..helpers.processes import killed_if_it_fails

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TINY = Path(__file__).with_name("tiny.py")
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
SIDE = 32


@dataclass
class Done:
    """A script that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out.strip().splitlines()[-1])


def launcher_environment() -> dict[str, str]:
    """This process's environment without what launchers set; Open MPI may be started as root."""
    launchers = ("OMPI_", "PMI", "SLURM_")
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(launchers)},
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


def marked_processes(mark: str) -> list[int]:
    """Every process that runs with ``NAME=VALUE`` in its environment: none can hide."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in environ and state != "Z":
            found.append(int(folder.name))
    return sorted(found)


class Scripts:
    """Starts train.py and validate.py in a folder of the test's own.

    Args:
        cwd: the folder.
        tiny: whether the models ``tiny``, ``tiny_plain`` and ``tiny_without_bn`` are registered,
            which aren't in the package. Their command is started by ``tiny.py`` instead.
    """

    def __init__(self, cwd: Path, tiny: bool = False) -> None:
        self.cwd, self.tiny = cwd, tiny
        self.environ = launcher_environment()
        # As in an activated environment.
        self.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"

    def run(self, *command: str, status: int | None = 0, timeout: int = 600) -> Done:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=self.cwd,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        with killed_if_it_fails(process):
            out, err = process.communicate(timeout=timeout)
        if status is not None:
            assert process.returncode == status, out + err
        return Done(process.returncode, out, err)

    def script(self, name: str, *args, ranks: int = 1, launcher: str = "mpirun", **kwargs) -> Done:
        program = [TINY, name.partition(".")[0]] if self.tiny else [ROOT / name]
        command = [sys.executable, *program, *args]
        if ranks > 1 and launcher == "mpirun":
            command = [BIN / "mpirun", "--oversubscribe", "-n", ranks, *command]
        elif ranks > 1:
            msrun = [BIN / "msrun", "--worker_num", ranks, "--local_worker_num", ranks]
            port = kwargs.pop("port")
            command = [*msrun, "--master_port", port, "--join", "True", *command[1:]]
        return self.run(*command, **kwargs)

    def train(self, *args, **kwargs) -> Done:
        return self.script("train.py", *args, **kwargs)

    def validate(self, *args, **kwargs) -> Done:
        return self.script("validate.py", *args, **kwargs)

    def export(self, *args, **kwargs) -> Done:
        return self.script("export.py", *args, **kwargs)


@pytest.fixture
def scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path)


@pytest.fixture
def tiny_scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path, tiny=True)


def write_images(folder: Path, counts: dict[str, int], seed: int) -> None:
    """Classes that differ by colour and texture; JPEG, with one PNG a class."""
    rng = np.random.default_rng(seed)
    colours = np.array(
        [
            [220, 40, 40],
            [40, 200, 60],
            [50, 60, 220],
            [220, 210, 40],
            [200, 60, 210],
            [60, 200, 210],
        ]
    )
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = colours[label % 6] + rng.normal(0, 40, (SIDE, SIDE, 3))
            pixels[:: 2 + label % 3] *= 0.5
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            suffix = ".png" if number == 0 else ".jpg"
            image.save(folder / name / f"{name}_{number:03d}{suffix}")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """48 training and 77 validation images of 6 classes; 77 is divided by neither 2 nor 3."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train", dict.fromkeys(CLASSES, 8), seed=1)
    counts = dict.fromkeys(CLASSES, 13)
    counts["fox"] = 12
    write_images(folder / "val", counts, seed=2)
    return folder


# Its graphs are compiled in half the time of others'. It has no batch norm.
SOON_COMPILED = "squeezenet1_1"


def recipe(images: Path, **changes) -> list[str]:
    """The options of a training that takes seconds."""
    options = {
        "model": "ghost_resnet18",
        "data_dir": images,
        "image_resize": SIDE,
        "batch_size": 8,
        "epoch_size": 2,
        "opt": "momentum",
        "lr": 0.02,
        "scheduler": "constant",
        "warmup_epochs": 0,
        "val_while_train": "true",
        "device_target": "CPU",
        "log_interval": 2,
        "num_parallel_workers": 1,
        **changes,
    }
    args = []
    for key, value in options.items():
        args += [
            f"--{key}",
            *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)]),
        ]
    return args


def rows(run_folder: Path) -> list[dict[str, str]]:
    with open(run_folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
