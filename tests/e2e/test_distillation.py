"""A student that learns from a teacher, as a user trains it."""

from __future__ import annotations

import mindcv
import mindspore as ms
import pytest
from mindspore import nn
from safetensors import safe_open

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.storage.checkpoint import load_weights, save_weights
from tests.helpers.randomised import randomise
from tests.helpers.tiny_network import tiny_registered

from .conftest import CLASSES, recipe, rows
from .test_bad_input import refused
from .test_going_on import Runs

TEACHER = "tiny"  # with ratio 1; the student has ratio 2
MIDDLE = "000003_epoch1_step4.safetensors"  # of what save_every_steps 4 saves, before the last


def create_teacher() -> nn.Cell:
    with tiny_registered(TEACHER):
        return mindcv.create_model(TEACHER, num_classes=len(CLASSES), ratio=1)


def save_teacher(path, seed: int) -> None:
    network = create_teacher()
    randomise(network, seed)
    save_weights(list(network.get_parameters()), path)


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("distillation"), images)
    save_teacher(runs.cwd / "teacher.ckpt", seed=1)
    save_teacher(runs.cwd / "other.ckpt", seed=2)
    return runs


# Mixup gives labels of shape (N, classes), on which not all of the native loss's code runs.
OPTIONS = {
    "teacher": TEACHER,
    "teacher_ckpt": "teacher.ckpt",
    "teacher_args": "ratio=1",
    "distill_alpha": 0.7,
    "distill_temperature": 4,
    "mixup": 0.2,
    "label_smoothing": 0.1,
    "gradient_accumulation_steps": 2,
    "save_every_steps": 4,
}


@pytest.fixture(scope="module")
def whole(runs):
    """A whole run of two epochs with much of what there is."""
    return runs.train("whole", **OPTIONS)


def test_the_log_and_the_run_folder_tell_of_the_teacher(runs, whole):
    facts = runs.facts("whole")["teacher"]
    network = create_teacher()
    assert facts["parameters"] == sum(p.size for p in network.trainable_params())
    assert (facts["model"], facts["args"]) == (TEACHER, {"ratio": 1})
    assert (facts["checkpoint"], facts["alpha"], facts["temperature"]) == ("teacher.ckpt", 0.7, 4)
    assert facts["seconds_per_batch"] > 0 and facts["memory_bytes"] > 1e4
    assert "teacher: native operators for" in whole.out
    assert "ms for a batch of 8 images" in whole.out
    assert "the teacher took about " in whole.out
    assert f"digest {facts['weights']}" in whole.out


def test_hard_and_soft_loss_are_told_apart_and_add_up(runs, whole):
    table = rows(runs.cwd / "whole")
    assert len(table) == 2
    for row in table:
        loss, hard, soft = (float(row[key]) for key in ("loss", "hard_loss", "soft_loss"))
        assert soft > 0.01 and abs(hard - soft) > 0.01
        assert loss == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)
    last = table[-1]
    hard, soft = float(last["hard_loss"]), float(last["soft_loss"])
    assert f"(hard {hard:.4f}, soft {soft:.4f})" in whole.out


def test_the_student_s_files_hold_the_teacher_s_name_and_digest_alone(runs, whole):
    digest = runs.facts("whole")["teacher"]["weights"]
    for path in (runs.cwd / "whole" / "resume").glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            assert not [name for name in file.keys() if "teacher" in name]  # noqa: SIM118
            assert digest in str(file.metadata())
    names = set(ms.load_checkpoint(str(runs.cwd / "whole" / "last.ckpt")))
    assert names and not [name for name in names if "teacher" in name]


def test_a_run_resumed_within_an_epoch_ends_with_the_same_bits(runs, whole):
    # The same weights in another file are the same teacher.
    network = create_teacher()
    load_weights(network, runs.cwd / "teacher.ckpt")
    path = runs.cwd / "copy.safetensors"
    ms.save_checkpoint(network, str(path), format="safetensors")
    state = runs.cwd / "whole" / "resume" / MIDDLE
    options = {**OPTIONS, "teacher_ckpt": path.name}
    done = runs.train("resumed", resume=state, **options)
    assert "continuing after batch 4 of 6 of epoch 2" in done.out
    assert runs.outcome("resumed") == runs.outcome("whole")
    assert any(name.startswith("ema.") for name in runs.outcome("resumed")[0])


def test_another_teacher_is_refused_on_resuming_unless_it_is_named(runs, whole):
    state = runs.cwd / "whole" / "resume" / MIDDLE
    options = {**OPTIONS, "teacher_ckpt": "other.ckpt", "resume": state}
    text = refused(runs.train("refused", status=2, **options))
    digest = runs.facts("whole")["teacher"]["weights"]
    assert f"teacher_weights: {digest} before" in text
    assert "add --resume_anyway teacher_weights" in text


def test_a_teacher_for_other_images_is_refused_in_one_message_alone(runs):
    with tiny_registered("tiny") as name:  # its classifier fits images of 32x32 alone
        network = mindcv.create_model(name, num_classes=len(CLASSES), in_channels=3)
        save_weights(list(network.get_parameters()), runs.cwd / "tiny.ckpt")
    before = {path.name for path in runs.cwd.iterdir()}
    options = {"model": "tiny_28", "image_resize": 28, "teacher": name, "teacher_ckpt": "tiny.ckpt"}
    done = runs.train("unfit", status=2, **options)
    start = f"error: teacher: {name} can't answer the student's images of 3x28x28 (in_channels, "
    assert done.err.startswith(start) and done.err.count("\n") == 1
    # MindSpore would leave a graph there.
    assert {path.name for path in runs.cwd.iterdir()} - before == {"unfit"}


@pytest.mark.slow
def test_a_run_may_go_on_with_and_without_a_teacher(runs, whole):
    folder = runs.copy("whole", "without")
    without = {k: v for k, v in OPTIONS.items() if not k.startswith(("teacher", "distill"))}
    named = ("teacher", "teacher_args", "distill_alpha", "distill_temperature", "teacher_weights")
    runs.train(folder, resume="auto", epoch_size=3, resume_anyway=named, **without)
    assert [bool(row["soft_loss"]) for row in rows(runs.cwd / folder)] == [True, True, False]
    runs.train(folder, resume="auto", epoch_size=4, resume_anyway=named, **OPTIONS)
    assert [bool(row["soft_loss"]) for row in rows(runs.cwd / folder)] == [True, True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"mode": 1}, {"amp_level": "O2"}, {"amp_level": "O3"}])
def test_other_modes_and_precisions_train(runs, whole, changes):
    folder = "_".join(f"{key}{value}" for key, value in changes.items())
    runs.train(folder, **{**OPTIONS, **changes})
    wanted, found = (rows(runs.cwd / name) for name in ("whole", folder))
    assert len(wanted) == len(found) == 2
    for row, other in zip(wanted, found):
        assert float(other["soft_loss"]) == pytest.approx(float(row["soft_loss"]), rel=0.1)


@pytest.mark.slow
def test_two_ranks_have_one_teacher_and_resume_with_the_same_bits(runs, whole):
    runs.train("two", ranks=2, **OPTIONS)
    assert runs.facts("two")["teacher"]["weights"] == runs.facts("whole")["teacher"]["weights"]
    assert "soft_loss" in rows(runs.cwd / "two")[0]
    state = runs.cwd / "two" / "resume" / MIDDLE
    runs.train("two_resumed", ranks=2, resume=state, **OPTIONS)
    assert runs.outcome("two_resumed") == runs.outcome("two")


@pytest.mark.slow
def test_a_student_that_starts_as_its_teacher_has_no_soft_loss(runs):
    """Without BN and dropout a network answers in training as in evaluation."""
    model = "squeezenet1_1"
    network = mindcv.create_model(model, num_classes=len(CLASSES))
    save_weights(list(network.get_parameters()), runs.cwd / "squeeze.ckpt")
    same = {"ckpt_path": "squeeze.ckpt", "teacher": model, "teacher_ckpt": "squeeze.ckpt"}
    once = {"epoch_size": 1, "lr": 0, "drop_rate": 0, "ckpt_save_dir": "same"}
    runs.scripts.train(*recipe(runs.images, model=model, **same, **once))
    row = rows(runs.cwd / "same")[0]
    assert abs(float(row["soft_loss"])) < 1e-9
    assert float(row["loss"]) == pytest.approx(0.5 * float(row["hard_loss"]), rel=1e-6)
