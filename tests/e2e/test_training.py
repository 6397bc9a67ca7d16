"""train.py and validate.py as users start them: alone, under mpirun, under msrun."""

from __future__ import annotations

import json
import shutil
import socket
from typing import NamedTuple

import mindcv
import pytest
import yaml

import mindcv_ghost  # noqa: F401 (registers the zoo)
from tests.helpers.tiny_network import tiny_registered

from .conftest import Done, Scripts, recipe, rows

NO_AUGMENTATION = {
    "scale": (1, 1),
    "ratio": (1, 1),
    "hflip": 0,
    "color_jitter": 0,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# A network that compiles in a second, and one of the package.
MODELS = ["tiny", pytest.param("ghost_resnet18", marks=pytest.mark.slow)]


class Trained(NamedTuple):
    """A finished training, in the folder ``run``."""

    scripts: Scripts
    done: Done
    model: str


@pytest.fixture(scope="module", params=MODELS)
def trained(request, images, tmp_path_factory):
    """A training with much of what there is: EMA, accumulation, clipping, mixup, dynamic scale."""
    model = request.param
    scripts = Scripts(tmp_path_factory.mktemp("trained"), tiny=model == "tiny")
    done = scripts.train(
        *recipe(
            images,
            model=model,
            epoch_size=3,
            ema="true",
            gradient_accumulation_steps=4,
            clip_grad="true",
            clip_value=5,
            mixup=0.2,
            amp_level="O2",
            loss_scale_type="dynamic",
            loss_scale=1024,
            label_smoothing=0.1,
            re_prob=0.2,
            auto_augment="randaug-m5",
            ckpt_save_dir="run",
            keep_checkpoint_max=2,
            lr=0.05,
            scheduler="cosine_decay",
            decay_epochs=3,
        )
    )
    return Trained(scripts, done, model)


def test_a_run_folder_holds_everything(trained):
    scripts, _, model = trained
    folder = scripts.cwd / "run"
    names = {p.name for p in folder.iterdir()} - {".lock"}
    kept = {f"{model}-2_6.ckpt", f"{model}-3_6.ckpt"}
    files = {"config.yaml", "metrics.csv", "run.json", "train.log", "events", "resume"}
    assert names == {"last.ckpt", "best.ckpt", *kept, *files}
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3"]
    assert all(float(row["images_per_second"]) > 0 for row in rows(folder))
    assert all(float(row["top1"]) <= float(row["top5"]) <= 100 for row in rows(folder))
    assert float(rows(folder)[0]["compile_seconds"]) > 0.1
    assert any(p.name.startswith("events.out") for p in (folder / "events").iterdir())
    assert list(scripts.cwd.iterdir()) == [folder]


def test_the_learning_rate_ends_where_the_schedule_ends_under_accumulation(trained):
    scripts = trained.scripts
    # 6 micro-steps in groups of 4 are 2 updates an epoch; the 6th of 6 updates of a cosine.
    last = float(rows(scripts.cwd / "run")[-1]["lr"])
    schedule = mindcv.create_scheduler(
        2, "cosine_decay", lr=0.05, warmup_epochs=0, decay_epochs=3, num_epochs=3
    )
    assert last == pytest.approx(schedule[-1], rel=1e-5)


def test_parameters_are_counted_without_bn_statistics(trained):
    scripts, done, model = trained
    facts = json.loads((scripts.cwd / "run" / "run.json").read_text())
    with tiny_registered("tiny"):
        network = mindcv.create_model(model, num_classes=6)
    assert facts["parameters"] == sum(p.size for p in network.trainable_params())
    assert f"{facts['parameters']:,} parameters, 6 classes" in done.out


def test_lines_not_a_bar_where_there_is_no_terminal_and_no_warnings_of_mindspore(trained):
    done = trained.done
    assert "epoch 3/3 step 6/6 loss " in done.out
    assert "\r" not in done.out + done.err
    assert "WARNING" not in done.out + done.err


def test_validation_repeats_what_training_measured(trained, images):
    scripts = trained.scripts
    done = scripts.validate(
        *("--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt", "--use_ema", "true"),
        *("--val_amp_level", "O2", "--per_class", "classes.csv", "--confusion", "c.png"),
    )
    last = rows(scripts.cwd / "run")[-1]
    assert done.json["images"] == 77
    assert done.json["top1"] == pytest.approx(float(last["top1"]), abs=1e-3)
    assert done.json["top5"] == pytest.approx(float(last["top5"]), abs=1e-3)
    assert done.json["loss"] == pytest.approx(float(last["val_loss"]), rel=1e-4)
    table = (scripts.cwd / "classes.csv").read_text().splitlines()
    assert len(table) == 7
    assert (scripts.cwd / "c.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def alone(trained):
    """What a validation of all images in one batch finds, made by our own C++."""
    scripts = trained.scripts
    options = ("--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt")
    return scripts.validate(*options, "--batch_size", "77", "--native_loader", "true").json


@pytest.mark.parametrize(
    ("ranks", "batch_size"), [(2, 8), pytest.param(3, 5, marks=pytest.mark.slow)]
)
def test_counts_are_the_same_for_any_ranks_and_batch_size(trained, alone, ranks, batch_size):
    scripts = trained.scripts
    options = ("--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt")
    several = scripts.validate(*options, "--batch_size", batch_size, ranks=ranks).json
    assert several["ranks"] == ranks
    for key in ("images", "correct", "correct_top5", "top1", "top5"):
        assert several[key] == alone[key]
    assert several["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def test_a_validation_is_the_same_to_the_last_digit_whoever_makes_the_images(trained, alone):
    scripts, done, _ = trained
    assert "native loader (libjpeg-turbo); decoded images stay in memory" in done.out
    options = ("--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt")
    stock = scripts.validate(*options, "--batch_size", "77", "--native_loader", "false").json
    for key in ("images", "correct", "correct_top5", "loss"):
        assert alone[key] == stock[key]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_repeated_by_its_resolved_config(scripts, images, model):
    scripts.tiny = model == "tiny"
    # MindSpore's dropout draws another mask in each run, from the same seed.
    options = {"model": model, "drop_rate": 0.0, "hflip": 0.5}
    scripts.train(*recipe(images, ckpt_save_dir="first", **options))
    written = scripts.cwd / "first" / "config.yaml"
    assert yaml.safe_load(written.read_text())["lr"] == 0.02
    shutil.copy(written, scripts.cwd / "again.yaml")
    scripts.train("--config", "again.yaml", "--ckpt_save_dir", "second")
    tables = [rows(scripts.cwd / name) for name in ("first", "second")]
    assert [len(table) for table in tables] == [2, 2]
    for first, second in zip(*tables):
        for key in ("epoch", "step", "loss", "lr", "val_loss", "top1", "top5"):
            assert first[key] == second[key]


@pytest.mark.parametrize(
    ("model", "options", "tolerances"),
    [
        pytest.param("tiny_without_bn", {"lr": 0.001}, (1e-5, 1e-5), id="without_bn"),
        # Two steps an epoch: batch norm over few values multiplies float32's noise about tenfold
        # a step (3e-7 after two steps, 5e-5 after three, 4e-4 after four).
        pytest.param(
            "resnet18",
            {"sync_bn": "true", "lr": 0.0001, "num_samples": 16, "image_resize": 64},
            (1e-5, 2e-3),
            id="sync_bn",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_ranks_learn_as_one_with_twice_the_batch(scripts, images, model, options, tolerances):
    scripts.tiny = model == "tiny_without_bn"
    options = {**NO_AUGMENTATION, **options}
    options["val_while_train"] = "false"
    one = recipe(images, model=model, batch_size=8, ckpt_save_dir="one", **options)
    two = recipe(images, model=model, batch_size=4, ckpt_save_dir="two", **options)
    scripts.train(*one)
    scripts.train(*two, ranks=2)
    losses = [[float(row["loss"]) for row in rows(scripts.cwd / f)] for f in ("one", "two")]
    assert losses[0][0] != losses[0][1]
    for alone, shared, tolerance in zip(*losses, tolerances):
        assert shared == pytest.approx(alone, rel=tolerance)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        pytest.param("tiny", "graph"),
        pytest.param("ghost_resnet18", "pynative", marks=pytest.mark.slow),
    ],
)
def test_msrun_trains_two_ranks_in_either_mode(scripts, images, model, mode):
    scripts.tiny = model == "tiny"
    number = ["graph", "pynative"].index(mode)
    options = recipe(
        images, model=model, mode=number, batch_size=4, ckpt_save_dir="run", epoch_size=1
    )
    scripts.train(*options, ranks=2, launcher="msrun", port=free_port())
    facts = json.loads((scripts.cwd / "run" / "run.json").read_text())
    assert (facts["ranks"], facts["launcher"], facts["mode"]) == (2, "msrun", mode)
    assert (facts["global_batch_size"], facts["steps_per_epoch"]) == (8, 6)
    assert len(rows(scripts.cwd / "run")) == 1


@pytest.mark.slow
def test_eight_ranks_train(scripts, images):
    options = recipe(images, batch_size=2, ckpt_save_dir="run", epoch_size=1)
    scripts.train(*options, ranks=8)
    facts = json.loads((scripts.cwd / "run" / "run.json").read_text())
    assert (facts["ranks"], facts["global_batch_size"], facts["steps_per_epoch"]) == (8, 16, 3)
    assert len(rows(scripts.cwd / "run")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_start_takes_kept_graphs_and_changes_no_bit(scripts, images, tmp_path, ranks):
    scripts.environ["MINDCV_GHOST_GRAPHS"] = str(tmp_path / "graphs")
    told = {}
    for name, changes in {
        "plain": {"compile_cache": "false"},
        "first": {},
        "second": {},
        "other": {"lr": 0.03},
    }.items():
        done = scripts.train(*recipe(images, ckpt_save_dir=name, **changes), ranks=ranks)
        told[name] = "comes from the cache" in done.out + done.err
        if name == "plain":
            assert not (tmp_path / "graphs").exists()
    assert told == {"plain": False, "first": False, "second": True, "other": False}
    values = {
        name: [(row["loss"], row["val_loss"], row["top1"]) for row in rows(scripts.cwd / name)]
        for name in told
    }
    weights = {name: (scripts.cwd / name / "last.ckpt").read_bytes() for name in told}
    assert values["plain"] == values["first"] == values["second"] != values["other"]
    assert weights["plain"] == weights["first"] == weights["second"] != weights["other"]
