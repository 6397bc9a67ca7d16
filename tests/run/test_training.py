"""A training that is refused leaves its run folder as it is; what a run tells of bad images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.config import load_config
from mindcv_ghost.engine import run_writer
from mindcv_ghost.engine.run_writer import DiskError
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.launch.world import World
from mindcv_ghost.run import training
from mindcv_ghost.run.session import Session
from mindcv_ghost.run.training import create_training
from mindcv_ghost.storage.run_folder import RunFolder

from ..helpers.tiny_network import tiny_registered

SIDE, CLASSES, IMAGES = 32, ("ant", "bee"), 8


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        for split in ("train", "val"):
            place = folder / split / CLASSES[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture
def create(images, tmp_path):
    """create(option, value, ...) -> a training of two epochs in the folder ``run``."""

    def create(*words):
        options = ["--model", "tiny_training", "--data_dir", images, "--image_resize", SIDE]
        options += ["--batch_size", 4, "--epoch_size", 2, "--opt", "momentum", "--mode", 1]
        options += ["--scheduler", "constant", "--warmup_epochs", 0, "--native_kernels", "false"]
        options += ["--val_while_train", "true", "--ckpt_save_dir", tmp_path / "run"]
        config = load_config([str(word) for word in (*options, *words)], script="train")
        folder = RunFolder(tmp_path / "run")
        try:
            return create_training(config, World(), Session("CPU", folder))
        finally:
            folder.close()

    ms.set_context(mode=ms.PYNATIVE_MODE)
    with tiny_registered("tiny_training"):
        yield create


@pytest.fixture
def finished(create, tmp_path) -> Path:
    """The run folder of a finished training that was validated and had diverged before."""
    create().run()
    folder = tmp_path / "run"
    for name in ("validate.json", "confusion.png", "learning_curve.png", "diverged.json"):
        (folder / name).write_text(name)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def older_state(folder: Path) -> Path:
    return folder / "resume" / "000001_epoch1_step0.safetensors"


def test_a_change_that_needs_other_arrays_is_refused_before_a_file_changes(create, finished):
    before = content(finished)
    # Nesterov's momentum is another optimizer on the CPU, whose state has other names.
    changes = ("--use_nesterov", "true", "--resume_anyway", "use_nesterov")
    with pytest.raises(CheckpointError, match="holds the state of another network or optimizer"):
        create("--resume", older_state(finished), *changes)
    assert content(finished) == before


@pytest.mark.parametrize("resumes", [True, False])
def test_a_disk_without_space_is_refused_before_a_file_changes(
    create, finished, monkeypatch, resumes
):
    before = content(finished)
    assert b'"best_top1"' in before["run.json"]
    full = SimpleNamespace(f_bavail=1, f_frsize=4096)
    monkeypatch.setattr(run_writer.os, "statvfs", lambda path: full)
    with pytest.raises(DiskError, match="MB of space left; two checkpoints take"):
        create(*(("--resume", older_state(finished)) if resumes else ()))
    assert content(finished) == before


def test_a_run_that_goes_on_from_an_older_state_replaces_what_the_later_ones_left(create, finished):
    run = create("--resume", older_state(finished))
    names = {path.name for path in finished.iterdir()}
    assert {"validate.1.json", "diverged.1.json"} <= names
    assert not {"validate.json", "diverged.json"} & names
    rows = (finished / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1"]
    assert run.trainer.position.epoch == 1


class Growing(dict):
    """A dictionary that a thread adds to while another one goes through it."""

    def items(self):
        for number, item in enumerate(super().items()):
            self[f"{number}.jpg"] = "cut"
            yield item


def test_bad_images_are_told_while_threads_find_more():
    bad = Growing({"a.jpg": "cut", "b.jpg": "empty"})
    data = training._Data(SimpleNamespace(bad=bad), None, 2, None)
    assert data.bad_images() == {"a.jpg": "cut", "b.jpg": "empty"}
