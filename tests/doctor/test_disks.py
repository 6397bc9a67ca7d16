"""Folders are used as training uses them, and left as they were."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.config import load_config
from mindcv_ghost.doctor import disks
from mindcv_ghost.doctor.report import BROKEN, OK, SLOW
from mindcv_ghost.errors import DataError

SMALL = 1 << 20


def ticking(step: float):
    """A clock that is ``step`` seconds later at each call."""
    ticks = itertools.count()
    return lambda: next(ticks) * step


def test_a_run_folder_is_measured_and_left_as_it_was(tmp_path):
    folder = tmp_path / "a" / "b"
    result = disks.check_run_folder(folder, SMALL, ticking(0.001))
    assert result.state in (OK, SLOW)  # by the space that this disk has
    assert result.numbers["write_mb_per_second"] == pytest.approx(SMALL / 1e6 / 0.001)
    assert list(tmp_path.iterdir()) == []


def test_files_in_the_run_folder_stay(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_text("mine")
    disks.check_run_folder(tmp_path / "run", SMALL)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


def test_a_killed_doctors_folder_is_removed_and_nothing_else(tmp_path):
    gone = tmp_path / f"{disks._prefix()}999999999-xyz"
    alive = tmp_path / f"{disks._prefix()}{os.getpid()}-xyz"
    other = tmp_path / f"{disks._prefix()}notes-1"
    for folder in (gone, alive, other):
        folder.mkdir()
    with disks.scratch_folder(tmp_path):
        assert not gone.exists()
    assert alive.exists() and other.exists()


def test_a_slow_disk_is_slow_and_the_threshold_is_shown(tmp_path):
    result = disks.check_run_folder(tmp_path, SMALL, ticking(1.0))
    assert result.state == SLOW and "(slow below 50)" in result.text


def test_a_folder_that_is_a_file_is_broken(tmp_path):
    (tmp_path / "file").write_text("")
    result = disks.check_run_folder(tmp_path / "file" / "run", SMALL)
    assert result.state == BROKEN and result.blocks
    assert "can't be written (Not a directory)" in result.text
    assert "--ckpt_save_dir" in result.remedy


def test_a_full_disk_is_broken(tmp_path, monkeypatch):
    def full(path, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disks, "_write", full)
    result = disks.check_run_folder(tmp_path, SMALL)
    assert result.state == BROKEN and "No space left on device" in result.text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{number}.jpg")
    return tmp_path


def check(folder, device="CPU", **more):
    config = load_config(["--data_dir", str(folder), "--num_parallel_workers", "1"])
    return disks.check_images(config, device, **more)


def test_images_are_counted_and_timed(folder):
    result = check(folder, clock=ticking(0.001))
    assert result.state == OK
    assert result.numbers["images"] == 8 and "8 in 2 classes" in result.text
    assert "(slow below 100 images/s)" in result.text


def test_device_auto_has_the_cpus_threshold(folder):
    result = check(folder, "auto", clock=ticking(0.001))
    assert result.state == OK and "(slow below 100 images/s)" in result.text


def test_a_folder_of_another_hosts_doctor_is_left_alone(tmp_path, monkeypatch):
    with disks.scratch_folder(tmp_path) as scratch:
        dead = scratch.name.replace(f"-{os.getpid()}-", "-999999999-")
        (tmp_path / dead).mkdir()
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        with disks.scratch_folder(tmp_path):
            assert scratch.exists() and (tmp_path / dead).exists()
        monkeypatch.undo()
        with disks.scratch_folder(tmp_path):
            assert scratch.exists() and not (tmp_path / dead).exists()


def test_images_too_slow_for_a_device_are_slow(folder):
    result = check(folder, "Ascend", clock=ticking(0.01))
    assert result.state == SLOW and "(slow below 1,000 images/s)" in result.text


def test_an_image_that_cant_be_read_is_named(folder):
    (folder / "train" / "ant" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    result = check(folder)
    assert result.state == BROKEN and "1 of 9 can't be read" in result.text
    assert "bad.jpg" in result.text and "--on_bad_image skip" in result.remedy


def test_a_missing_image_folder_is_the_scans_error(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        check(tmp_path / "nowhere")
