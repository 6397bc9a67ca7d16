"""What export refuses before MindSpore is imported."""

from __future__ import annotations

import sys

import pytest

from mindcv_ghost.commands import export
from mindcv_ghost.errors import CheckpointError, ConfigError, UserError


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"x")
    return str(path)


def refusal(*words: str, kind: type[UserError] = ConfigError) -> str:
    with pytest.raises(kind) as refused:
        export.main(list(words))
    return str(refused.value)


def test_weights_are_needed():
    assert "export needs weights: give --ckpt_path" in refusal("--model", "ghostnet_100")


def test_a_missing_checkpoint_is_named():
    text = refusal("--ckpt_path", "nowhere.ckpt", kind=CheckpointError)
    assert text == "--ckpt_path nowhere.ckpt: there is no such file"


def test_a_folder_of_weights_is_refused(tmp_path):
    text = refusal("--ckpt_path", str(tmp_path), kind=CheckpointError)
    assert text == f"--ckpt_path {tmp_path} is a folder; give a file of weights in it"
    text = refusal("--ckpt_path", 300 * "x", kind=CheckpointError)
    assert text == f"--ckpt_path {300 * 'x'} can't be read: File name too long"


def test_without_data_the_number_of_classes_is_needed(checkpoint):
    text = refusal("--model", "ghostnet_100", "--ckpt_path", checkpoint)
    assert "give --num_classes N" in text
    text = refusal("--ckpt_path", checkpoint, "--dataset", "digits", "--verify_images", "0")
    assert "give --num_classes N" in text


@pytest.mark.parametrize("key", ["output", "web", "triton"])
def test_a_folder_that_cannot_be_written_is_named(key, checkpoint, tmp_path):
    folder = f"{checkpoint}/x"
    text = refusal("--num_classes", "5", "--ckpt_path", checkpoint, f"--{key}", folder)
    assert text == f"--{key} {folder}: {checkpoint} isn't a folder; give another folder"


def test_the_reports_folder_and_the_calibration_images_are_looked_for(checkpoint, tmp_path):
    words = ["--num_classes", "5", "--ckpt_path", checkpoint, "--output", str(tmp_path / "o")]
    text = refusal(*words, "--int8", str(tmp_path / "no"))
    assert "no: there is no such folder of calibration images" in text
    text = refusal(*words, "--int8", str(tmp_path), "--int8_report", f"{checkpoint}/r.csv")
    assert "--int8_report" in text and "isn't a folder" in text
    assert not (tmp_path / "o").exists()


def test_without_onnx_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    text = refusal("--num_classes", "5", "--ckpt_path", checkpoint)
    assert "pip install 'mindcv-ghost[export]'" in text and "--format mindir" in text


def test_several_ranks_are_refused(checkpoint, monkeypatch):
    variables = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    variables |= {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    text = refusal("--num_classes", "5", "--ckpt_path", checkpoint)
    assert text == "export is one process, and openmpi has started 2: start it without a launcher"
