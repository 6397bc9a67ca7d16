"""One trained checkpoint, exported: the scripts give the same counts and labels for either file."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from .conftest import CLASSES, ROOT, Scripts, recipe

COUNTS = ("images", "correct", "correct_top5", "unreadable", "top1", "top5")
# Exports in a process of its own, as a user's program does.
EXPORT = """
import sys, mindcv
from tests.helpers.tiny_network import register_tiny
from mindcv_ghost.config import load_config
from mindcv_ghost.export import to_onnx
from mindcv_ghost.run.preprocessing import describe_recipe
from mindcv_ghost.storage.checkpoint import load_weights

register_tiny("tiny")
config = load_config(["--config", "run/config.yaml"], script="validate")
network = mindcv.create_model(config.model.model, num_classes=6)
load_weights(network, "run/best.ckpt")
to_onnx(network, "net.onnx", image_size=(32, 32), description=describe_recipe(config))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, images) -> Path:
    """A folder with the run of a small network in ``run``, and ``net.onnx``."""
    folder = tmp_path_factory.mktemp("trained")
    scripts = Scripts(folder, tiny=True)
    options = recipe(images, model="tiny", epoch_size=8, opt="adam", lr=0.0003)
    scripts.train(*options, "--ckpt_save_dir", "run")
    scripts.environ["PYTHONPATH"] = str(ROOT)
    scripts.run(sys.executable, "-c", EXPORT)
    return folder


@pytest.fixture
def scripts(trained):
    return Scripts(trained, tiny=True)


def test_validate_counts_the_same_for_the_file_as_for_the_checkpoint(scripts, images):
    words = ["--config", "run/config.yaml"]
    checkpoint = scripts.validate(*words, "--ckpt_path", "run/best.ckpt", "--per_class", "a.csv")
    alone = scripts.validate(*words, "--onnx", "net.onnx", "--per_class", "b.csv")
    two = scripts.validate(*words, "--onnx", "net.onnx", ranks=2)
    expected = {name: checkpoint.json[name] for name in COUNTS}
    assert expected["images"] == 77
    for done in (alone, two):
        assert {name: done.json[name] for name in COUNTS} == expected
        assert done.json["loss"] == pytest.approx(checkpoint.json["loss"], rel=1e-5)
        assert (done.json["checkpoint"], done.json["model"]) == ("net.onnx", "tiny")
        assert done.json["parameters"] is None
    assert two.json["ranks"] == 2
    assert (scripts.cwd / "a.csv").read_text() == (scripts.cwd / "b.csv").read_text()
    assert alone.json["top1"] > 20  # more than chance: it has learnt something

    # infer, without MindSpore, agrees on each image of each class.
    scripts.tiny = False
    done = scripts.script("infer.py", images / "val", "--csv", "--topk", "1", "--model", "net.onnx")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    hits = [Path(row["image"]).parent.name == row["label"] for row in rows]
    assert (len(hits), sum(hits)) == (77, expected["correct"])


def test_infer_gives_the_same_labels_for_the_file_and_for_the_checkpoint(scripts, images):
    words = [images / "val", "--json", "--topk", "6"]
    rows = {}
    for model in ("net.onnx", "run/best.ckpt"):
        done = scripts.script("infer.py", *words, "--model", model)
        assert done.err == ""
        rows[model] = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows["net.onnx"]) == 77
    for one, other in zip(rows["net.onnx"], rows["run/best.ckpt"]):
        assert one["image"] == other["image"]
        assert [p["label"] for p in one["predictions"]] == [
            p["label"] for p in other["predictions"]
        ]
        for p, q in zip(one["predictions"], other["predictions"]):
            assert p["probability"] == pytest.approx(q["probability"], abs=1e-5)
        assert one["predictions"][0]["label"] in CLASSES


def test_a_checkpoint_without_its_recipe_is_refused_and_one_can_be_given(scripts, images):
    shutil.copyfile(scripts.cwd / "run" / "best.ckpt", scripts.cwd / "alone.ckpt")
    words = [images / "val" / "ant", "--model", "alone.ckpt", "--csv", "--topk", "1"]
    done = scripts.script("infer.py", *words, status=2)
    assert done.err.startswith("error: alone.ckpt has weights alone: give the recipe")
    given = scripts.script("infer.py", *words, "--config", "run/config.yaml")
    beside = scripts.script("infer.py", *words, "--model", "run/best.ckpt")
    assert given.out == beside.out
    assert given.out.count("\n") == 14


def test_without_the_images_the_run_folder_tells_how_many_classes_there_are(scripts, images):
    text = (scripts.cwd / "run" / "config.yaml").read_text()
    (scripts.cwd / "gone.yaml").write_text(text.replace(str(images), "gone"))
    shutil.copyfile(scripts.cwd / "run" / "best.ckpt", scripts.cwd / "alone.ckpt")
    words = [images / "val" / "ant", "--config", "gone.yaml", "--csv", "--topk", "6"]
    done = scripts.script("infer.py", *words, "--model", "alone.ckpt", status=2)
    assert "the number of classes isn't known. Set num_classes in gone.yaml" in done.err
    done = scripts.script("infer.py", *words, "--model", "run/best.ckpt")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert {row["label"] for row in rows} == set("012345")


def test_two_networks_at_once_are_refused_and_an_option_beats_the_recipe(scripts):
    words = ["--config", "run/config.yaml", "--onnx", "net.onnx"]
    done = scripts.validate(*words, "--ckpt_path", "run/best.ckpt", status=2)
    assert "one network can be validated" in done.err
    done = scripts.validate(*words, "--use_ema", status=2)
    assert "export with --use_ema" in done.err
    recipe_with_weights = (scripts.cwd / "run" / "config.yaml").read_text()
    recipe_with_weights = recipe_with_weights.replace('ckpt_path: ""', "ckpt_path: gone.ckpt")
    (scripts.cwd / "fine.yaml").write_text(recipe_with_weights)
    done = scripts.validate("--config", "fine.yaml", "--onnx", "net.onnx")
    assert "ckpt_path is ignored, --onnx is given" in done.out + done.err
    assert done.json["images"] == 77
