"""export.py, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import mindcv

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.storage.checkpoint import save_weights
from tests.helpers.tiny_network import tiny_registered

from .conftest import CLASSES, ROOT, SIDE, SOON_COMPILED


def options(model: str, images: Path, folder: Path) -> list[object]:
    """The options of an export; writes the model's checkpoint into the folder."""
    with tiny_registered("tiny"):
        network = mindcv.create_model(model, num_classes=len(CLASSES))
    save_weights(list(network.get_parameters()), folder / "x.ckpt")
    words: list[object] = ["--model", model, "--ckpt_path", "x.ckpt", "--data_dir", images]
    return [*words, "--image_resize", SIDE, "--batch_size", 16]


def test_the_files_have_the_accuracy_that_validation_measures(tiny_scripts, images):
    scripts = tiny_scripts
    words = options("tiny", images, scripts.cwd)
    done = scripts.export(*words, "--format", "onnx", "mindir", "--output", "out")
    names = [f"tiny.{suffix}" for suffix in ("json", "mindir", "onnx")]
    assert sorted(p.name for p in (scripts.cwd / "out").iterdir()) == names
    assert "comparing with the network on 77 validation images" in done.out + done.err
    validated = scripts.validate(*words, "--device_target", "CPU").json
    for suffix in ("onnx", "mindir"):
        accuracy = done.json["accuracy"][f"tiny.{suffix}"]
        assert accuracy["top1"] == validated["top1"]
        assert accuracy["top5"] == validated["top5"]
        assert accuracy["images"] == validated["images"] == 77


def test_bad_input_is_one_message_with_status_2(scripts, images):
    words = options(SOON_COMPILED, images, scripts.cwd)
    done = scripts.export(*words, "--model", "ghost_resnet18", "--output", "out", status=2)
    text = done.out + done.err
    assert "Traceback" not in text and text.count("error: ") == 1
    assert "doesn't fit the network" in text
    assert not (scripts.cwd / "out").exists()


def test_ctrl_c_leaves_nothing(scripts, images):
    words = [*options(SOON_COMPILED, images, scripts.cwd), "--output", "out"]
    command = [sys.executable, ROOT / "export.py", *words]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=scripts.cwd,
        env=scripts.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    out = scripts.cwd / "out"
    deadline = time.monotonic() + 120
    while not (out.is_dir() and list(out.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in text) == (130, False), text
    assert not out.exists()
