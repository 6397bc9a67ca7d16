"""What a publication says of a distilled network, and what it doesn't say of this machine."""

from __future__ import annotations

import os

import mindcv
import numpy as np
import pytest
from PIL import Image

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.config import load_config
from mindcv_ghost.data.sets import array_folders
from mindcv_ghost.launch.world import detect
from mindcv_ghost.report.finished_run import FinishedRun
from mindcv_ghost.run.parts import run_facts
from mindcv_ghost.run.publication import (
    Publication,
    Wishes,
    _portable,
    _taught_by,
    _without_folders,
)
from mindcv_ghost.run.session import Session
from mindcv_ghost.storage.checkpoint import save_weights
from mindcv_ghost.version import __version__
from tests.helpers.published import make_card
from tests.helpers.tiny_network import tiny_registered

TEACHER = {
    **{"model": "ghost_resnet20_cifar", "args": {}, "checkpoint": "/home/me/runs/big/last.ckpt"},
    **{"ema": False, "weights": "9e9ba91d69c80e81", "alpha": 0.9, "temperature": 4.0},
    **{"parameters": 136_218, "seconds_per_batch": 0.005},
}


def test_the_folder_of_a_teacher_is_not_published_but_its_name_and_digest_are():
    words = ["--model", "ghost_resnet20_cifar", "--teacher", "ghost_resnet20_cifar"]
    words += [
        "--teacher_ckpt",
        TEACHER["checkpoint"],
        "--dataset",
        "cifar10",
        "--data_dir",
        "/home",
    ]
    text = _portable(load_config(words, script="train")).to_yaml()
    assert "/home" not in text and 'teacher_ckpt: "last.ckpt"\n' in text
    facts = {"seed": 1, "teacher": TEACHER}
    expected = {**TEACHER, "checkpoint": "last.ckpt"}
    assert _without_folders(facts) == {"seed": 1, "teacher": expected}
    assert _without_folders({"seed": 1}) == {"seed": 1}
    assert facts["teacher"]["checkpoint"].startswith("/home")  # the run's own are left alone


def test_the_card_says_which_network_taught_a_distilled_one_and_how():
    names = {"model", "args", "checkpoint", "ema", "weights", "alpha", "temperature"}
    expected = {name: TEACHER[name] for name in names}
    assert _taught_by(TEACHER) == {**expected, "checkpoint": "last.ckpt"}


def test_every_run_tells_the_release_that_it_was_made_with():
    words = ["--model", "ghost_resnet20_cifar", "--dataset", "cifar10"]
    config = load_config(words, script="train")
    assert run_facts(config, detect({}), "CPU", 10, 1)["versions"]["mindcv_ghost"] == __version__


@pytest.mark.parametrize(
    ("versions", "header"),
    [({"mindcv_ghost": "0.0.9"}, "mindcv_ghost 0.0.9"), ({"mindspore": "2.8.0"}, "mindcv_ghost")],
)
def test_the_texts_name_the_release_that_trained_and_are_utf_8(tmp_path, versions, header):
    words = ["--model", "ghost_resnet20_cifar", "--dataset", "folder", "--data_dir", "d"]
    config = load_config(words, script="validate")
    wishes = Wishes(tmp_path / "out", "pets", "CC0-1.0", "", "float32", ())
    run = FinishedRun(tmp_path, {"versions": versions}, b"", [])
    publication = Publication(run, config, "", wishes, detect({}), Session("CPU", None))
    publication._write_texts(tmp_path, make_card(class_names=(os.fsdecode(b"caf\xe9"), "bee")))
    lines = (tmp_path / "config.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# every setting of a run of {header}"
    assert "(caf\\udce9, bee)" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ema", "use_ema", "told"),
    [
        ("true", "true", "averaged weights of best.ckpt (epoch 3, the best on this split)"),
        ("true", "false", "best.ckpt (epoch 3, chosen by its averaged weights)"),
        ("false", "false", "best.ckpt (epoch 3, the best on this split)"),
    ],
)
def test_the_card_calls_weights_the_best_only_if_they_were_validated(tmp_path, ema, use_ema, told):
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    words = f"--model ghost_resnet20_cifar --dataset cifar10 --ema {ema} --use_ema {use_ema}"
    words += f" --ckpt_path {tmp_path / 'best.ckpt'}"
    config = load_config(words.split(), script="validate")
    run = FinishedRun(tmp_path, {"best_epoch": 3}, b"", [])
    wishes = Wishes(tmp_path / "out", "digits", "CC0-1.0", "", "float32", ())
    publication = Publication(run, config, "", wishes, detect({}), Session("CPU", None))
    assert publication._training(run.facts)["checkpoint"] == told


def test_the_file_and_the_checkpoint_are_validated_on_images_that_are_decoded_once(
    tmp_path, monkeypatch
):
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "data" / split / str(label)
            folder.mkdir(parents=True)
            Image.fromarray(draw.integers(0, 256, (28, 28), np.uint8)).save(folder / "0.png")
    decoded, decode = [], array_folders._decoded

    def counted(path):
        decoded.append(path)
        return decode(path)

    monkeypatch.setattr(array_folders, "_decoded", counted)
    with tiny_registered("tiny_28", side=28) as name:
        network = mindcv.create_model(name, num_classes=10, in_channels=1)
        save_weights(list(network.get_parameters()), tmp_path / "last.ckpt")
        words = f"--model {name} --dataset mnist --val_split test --in_channels 1 --image_resize 28"
        words += f" --data_dir {tmp_path / 'data'} --ckpt_path {tmp_path / 'last.ckpt'}"
        config = load_config([*words.split(), "--compile_cache", "false"], script="validate")
        wishes = Wishes(tmp_path / "out", "digits", "CC0-1.0", "", "float32", ())
        run = FinishedRun(tmp_path, {"train_images": 10}, b"", [])
        card, _ = Publication(run, config, "", wishes, detect({}), Session("CPU", None)).write()
    assert card.accuracy["images"] == 10
    assert card.accuracy["correct"] == card.accuracy["checkpoint_correct"]
    assert len(decoded) == 10
