"""A run is published, and others get its numbers from the folder, to the image."""

from __future__ import annotations

import json
import sys

import pytest

import mindcv_ghost
from mindcv_ghost.compat import cache_folder
from mindcv_ghost.convert import to_mindspore
from mindcv_ghost.storage.weights_file import read_weights_file
from tests.helpers.web_server import serve

from .conftest import Scripts, recipe

MODEL = "ghost_resnet20_cifar"
COMMAND = [sys.executable, "-m", "mindcv_ghost"]


def published_by(scripts: Scripts, images, *options: str) -> tuple[dict, str]:
    """Publish the run; return the card, and the digits of the URL."""
    words = ["publish", "run", "pets", "--license", "CC0-1.0", "--data_dir", images, *options]
    done = scripts.run(*COMMAND, *words)
    card = json.loads((scripts.cwd / "pets" / "card.json").read_text())
    return card, done.out.strip().rpartition("#sha256=")[2]


@pytest.fixture(scope="module")
def published(images, tmp_path_factory):
    scripts = Scripts(tmp_path_factory.mktemp("published"))
    changes = {"model": MODEL, "model_args": "ratio=4", "in_channels": 1, "mean": 120, "std": 60}
    scripts.train(*recipe(images, ckpt_save_dir="run", epoch_size=4, lr=0.1, **changes))
    # Downloads go to a cache of the test's own, which has the native libraries of the user's.
    own = scripts.cwd / "cache" / "mindcv_ghost"
    own.mkdir(parents=True)
    for path in cache_folder().iterdir():
        if path.name not in ("weights", "graphs"):
            (own / path.name).symlink_to(path)
    scripts.environ["XDG_CACHE_HOME"] = str(own.parent)
    return scripts, *published_by(scripts, images, "--dtype", "float16")


def test_the_card_has_the_counts_of_the_published_file(published, images):
    scripts, card, digits = published
    assert (card["name"], card["model"], card["model_args"]) == ("pets", MODEL, {"ratio": 4})
    assert card["accuracy"]["images"] == 77
    assert card["data"]["name"] == images.name
    assert card["class_names"] == ["ant", "bee", "cat", "dog", "eel", "fox"]
    assert (card["license"], card["training"]["epochs"]) == ("CC0-1.0", 4)
    facts = json.loads((scripts.cwd / "run" / "run.json").read_text())
    best = round(facts["best_top1"] * 77 / 100)
    assert card["accuracy"]["checkpoint_correct"] == best > 77 // 5
    # Nobody learns where this machine's images are.
    assert str(images) not in (scripts.cwd / "pets" / "config.yaml").read_text()
    names = {path.name for path in (scripts.cwd / "pets").iterdir()}
    texts = {"README.md", "card.json", "SHA256SUMS", "config.yaml", "metrics.csv", "run.json"}
    files = {"model.safetensors", "model.ckpt", "model_pytorch.safetensors"}
    assert names == texts | files and len(digits) == 64


def test_all_files_hold_the_same_numbers(published):
    folder = published[0].cwd / "pets"
    network = mindcv_ghost.create_model(MODEL, pretrained=str(folder))
    expected = {p.name: p.asnumpy() for p in network.get_parameters()}
    torch = read_weights_file(folder / "model_pytorch.safetensors", 2**30).arrays
    assert "layer1.0.conv1.primary_conv.0.weight" in torch
    renamed, report = to_mindspore(torch, network, MODEL)
    assert report.cast > 20  # convolutions, in float16
    for arrays in (renamed, read_weights_file(folder / "model.ckpt", 2**30).arrays):
        assert arrays.keys() == expected.keys()
        assert all((array == expected[name]).all() for name, array in arrays.items())


def test_from_a_web_server_it_validates_to_the_image_without_a_recipe(published, images):
    scripts, card, digits = published
    data = ["--dataset", "folder", "--data_dir", images, "--batch_size", "9"]
    with serve(scripts.cwd) as (url, faults):
        faults.cut_after = 100_000
        done = scripts.validate("--pretrained", f"{url}/pets#sha256={digits}", *data)
    assert (done.json["correct"], done.json["images"]) == (card["accuracy"]["correct"], 77)
    assert done.json["model"] == MODEL
    cached = scripts.cwd / "cache" / "mindcv_ghost" / "weights" / digits / "model.safetensors"
    assert done.json["checkpoint"] == str(cached) and cached.is_file()


def test_infer_names_the_published_classes(published, images):
    scripts = published[0]
    picture = images / "val" / "fox" / "fox_000.png"
    done = scripts.run(*COMMAND, "infer", picture, "--pretrained", "pets", "--json", "--topk", "6")
    found = {each["label"] for each in done.json["predictions"]}
    assert found == {"ant", "bee", "cat", "dog", "eel", "fox"}


@pytest.mark.slow
def test_float32_files_hold_the_checkpoint_bit_for_bit_and_export_takes_them(images, tmp_path):
    scripts = Scripts(tmp_path)
    scripts.train(*recipe(images, model=MODEL, ckpt_save_dir="run", epoch_size=1, ema="true"))
    card, _ = published_by(scripts, images, "--format", "ckpt")
    assert card["ema"] and card["accuracy"]["correct"] == card["accuracy"]["checkpoint_correct"]
    run = read_weights_file(tmp_path / "run" / "best.ckpt", 2**30).arrays
    for name in ("model.safetensors", "model.ckpt"):
        arrays = read_weights_file(tmp_path / "pets" / name, 2**30).arrays
        assert all((array == run[f"ema.{key}"]).all() for key, array in arrays.items())
    words = ["--pretrained", "./pets", "--dataset", "folder", "--data_dir", images]
    scripts.export(*words, "--output", "out")
    described = json.loads((tmp_path / "out" / f"{MODEL}.json").read_text())
    assert described["accuracy"]["images"] == 77
    assert described["class_names"] == card["class_names"]
    assert round(described["accuracy"]["top1"] * 0.77) == card["accuracy"]["correct"]


@pytest.mark.slow
def test_a_training_starts_from_it_with_a_new_classifier(published, images, tmp_path):
    scripts = published[0]
    few = tmp_path / "few"
    for split in ("train", "val"):
        for name in ("bee", "fox"):
            (few / split).mkdir(parents=True, exist_ok=True)
            (few / split / name).symlink_to(images / split / name)
    changes = {"model": MODEL, "model_args": "ratio=4", "in_channels": 1, "mean": 120, "std": 60}
    words = recipe(few, **changes, ckpt_save_dir="tuned", lr=0)
    done = scripts.train(*words, "--pretrained", "./pets", "--epoch_size", "1")
    assert "new: classifier.weight, classifier.bias" in done.err + done.out
    old = read_weights_file(scripts.cwd / "pets" / "model.ckpt", 2**30).arrays
    new = read_weights_file(scripts.cwd / "tuned" / "last.ckpt", 2**30).arrays
    assert new["classifier.weight"].shape[0] == 2
    kernels = [name for name in old if old[name].ndim == 4]
    assert kernels and all((new[name] == old[name]).all() for name in kernels)
    config = (scripts.cwd / "tuned" / "config.yaml").read_text()
    assert 'pretrained: "./pets"' in config
    # A resumed run doesn't need them, and keeps their name.
    scripts.train(*words, "--resume", "auto", "--pretrained", "./gone", status=2)
    scripts.train(*words, "--resume", "auto")
    assert json.loads((scripts.cwd / "tuned" / "run.json").read_text())["epochs"] == 2
    assert 'pretrained: "./pets"' in (scripts.cwd / "tuned" / "config.yaml").read_text()
