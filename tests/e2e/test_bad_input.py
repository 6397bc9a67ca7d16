"""Bad input gets one clear message, status 2 and no traceback."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from pathlib import Path

import pytest

from .conftest import recipe, rows


def refused(done) -> str:
    """The message of a run that ended with status 2; it must be no traceback."""
    assert done.status == 2
    assert "Traceback" not in done.out + done.err
    assert done.err.count("error: ") == 1
    return done.err[done.err.index("error: ") :]


def test_an_unknown_key_gets_the_nearest_name(scripts):
    (scripts.cwd / "a.yaml").write_text("model: ghost_resnet50\nweigth_decay: 1.0e-4\n")
    text = refused(scripts.train("--config", "a.yaml", status=2))
    assert "a.yaml:2" in text
    assert "weight_decay" in text


def test_all_problems_of_a_file_come_at_once(scripts):
    (scripts.cwd / "a.yaml").write_text("lr: nan\nbatch_size: -3\ncrop_pct: 0\nopt: momentun\n")
    text = refused(scripts.train("--config", "a.yaml", "--epoch_size", "1.5", status=2))
    for part in ("a.yaml:1", "a.yaml:2", "a.yaml:3", "a.yaml:4", "momentum", "--epoch_size"):
        assert part in text


def test_under_mpirun_the_message_comes_once(scripts):
    done = scripts.train("--lr", "fast", ranks=2, status=None)
    assert done.status != 0
    assert (done.out + done.err).count("--lr") == 1
    assert "Traceback" not in done.out + done.err


def test_a_missing_data_folder_names_what_is_near(scripts, images):
    text = refused(scripts.train(*recipe(images.with_name(images.name[:-1] + "x")), status=2))
    assert images.name[:-1] + "x" in text
    text = refused(scripts.train(*recipe(images, train_split="trian"), status=2))
    assert "trian" in text
    assert "train" in text.replace("trian", "")


@pytest.fixture
def copied(images, tmp_path):
    """Images that a test may spoil, in a folder beside the run's."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    return folder


def test_what_is_wrong_with_a_folder_is_named_before_training(scripts, copied):
    (copied / "train" / "owl").mkdir()
    (copied / "train" / "cat" / "readme.txt").write_text("no image")
    shutil.rmtree(copied / "val" / "bee")
    text = refused(scripts.train(*recipe(copied), status=2))
    assert "owl" in text
    assert "readme.txt" in text


def test_a_class_missing_in_val_does_not_shift_labels(scripts, copied):
    shutil.rmtree(copied / "val" / "bee")
    text = refused(scripts.train(*recipe(copied), status=2))
    assert "bee" in text


def test_a_flat_validation_folder_is_refused_with_the_command_that_sorts_it(scripts, copied):
    shutil.rmtree(copied / "val")
    (copied / "val").mkdir()
    source = next((copied / "train" / "ant").glob("*.jpg"))
    for number in range(1, 4):
        shutil.copy(source, copied / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    text = refused(scripts.train(*recipe(copied), status=2))
    assert "python -m mindcv_ghost.data.imagenet" in text


def test_a_cut_image_stops_the_run_by_its_name(tiny_scripts, copied):
    victim = copied / "train" / "dog" / "dog_003.jpg"
    victim.write_bytes(victim.read_bytes()[:400])
    options = recipe(copied, model="tiny")
    text = refused(tiny_scripts.train(*options, status=2))
    assert "dog_003.jpg" in text


def test_a_cut_image_is_skipped_on_request_and_counted_in_validation(tiny_scripts, copied):
    scripts = tiny_scripts
    for split, name in (("train", "dog/dog_003.jpg"), ("val", "eel/eel_004.jpg")):
        victim = copied / split / name
        victim.write_bytes(victim.read_bytes()[:400])
    options = dict(model="tiny", epoch_size=1, ckpt_save_dir="run")
    done = scripts.train(*recipe(copied, on_bad_image="skip", **options))
    assert "1 unreadable" in done.out
    assert "dog_003.jpg" in done.out
    assert len(rows(scripts.cwd / "run")) == 1
    result = scripts.validate("--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt").json
    assert (result["images"], result["unreadable"]) == (77, 1)


def test_validation_with_a_checkpoint_that_is_not_there_names_it(tiny_scripts, images):
    options = recipe(images, model="tiny", ckpt_path="no.ckpt")
    text = refused(tiny_scripts.validate(*options, status=2))
    assert "no checkpoint no.ckpt" in text


def test_an_unknown_model_gets_the_nearest_names(scripts, images):
    text = refused(scripts.train(*recipe(images, model="ghostresnet50"), status=2))
    assert "ghost_resnet50" in text


def test_two_runs_do_not_share_a_folder(scripts, images):
    (scripts.cwd / "run").mkdir()
    with open(scripts.cwd / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = refused(scripts.train(*recipe(images, ckpt_save_dir="run"), status=2))
    assert "another run is writing to run" in text


def test_a_run_folder_that_is_a_file_is_named(scripts, images):
    (scripts.cwd / "run").write_text("")
    text = refused(scripts.train(*recipe(images, ckpt_save_dir="run"), status=2))
    assert "the run folder run can't be written" in text


def test_a_loss_that_is_no_number_stops_the_run(tiny_scripts, images):
    options = recipe(images, model="tiny", lr=1e30, val_while_train="false")
    text = refused(tiny_scripts.train(*options, status=2))
    # Which of them first is a matter of how the operators round on their way to infinity.
    what = "loss became (nan|inf)|gradients became infinite or NaN"
    assert re.search(f"the ({what}) at step 2 of epoch 1", text)
    report = json.loads((tiny_scripts.cwd / "ckpt" / "diverged.json").read_text())
    assert len(report["images"]) == 8 and all(Path(name).is_file() for name in report["images"])


def test_a_device_that_is_not_there_is_refused(scripts, images):
    text = refused(scripts.train(*recipe(images, device_target="Ascend"), status=2))
    assert "device_target Ascend" in text


def test_distribute_true_without_a_launcher_is_refused(scripts, images):
    text = refused(scripts.train(*recipe(images, distribute="true"), status=2))
    assert "mpirun" in text


@pytest.mark.parametrize(
    ("argument", "told"), [("ratio=4096", "ratio is 4096"), ("ratoi=4", "ratoi")]
)
def test_a_model_argument_that_cannot_be_is_named(scripts, images, argument, told):
    text = refused(scripts.train(*recipe(images), "--model_args", argument, status=2))
    assert told in text


def test_mindcv_s_way_of_resuming_is_refused_and_ours_is_named(scripts, images):
    options = recipe(images, ckpt_path="a.ckpt", resume_opt="true")
    text = refused(scripts.train(*options, status=2))
    assert "--resume auto" in text


def test_a_run_to_resume_that_is_not_there_is_named(scripts, images):
    text = refused(scripts.train(*recipe(images, resume="runs/gone"), status=2))
    assert "--resume runs/gone: no such file" in text
