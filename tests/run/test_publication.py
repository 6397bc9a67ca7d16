"""What a publication says of a distilled network, and what it doesn't say of this machine."""

from __future__ import annotations

from mindcv_ghost.config import load_config
from mindcv_ghost.run.publication import _portable, _taught_by, _without_folders

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
