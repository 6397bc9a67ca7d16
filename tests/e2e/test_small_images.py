"""Fashion-MNIST through the scripts: training, resuming, export, prediction, and what is wrong."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from .conftest import Scripts, recipe
from .test_going_on import Runs

TRAIN, TEST, SIDE = 48, 22, 28


def write_clothes(folder, seed: int = 0) -> np.ndarray:
    """Write packed IDX files of ten patterns with noise; return the test images."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    patterns = draw.integers(0, 200, (10, SIDE, SIDE))
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        labels = np.arange(count) % 10
        pixels = (patterns[labels] + draw.integers(0, 56, (count, SIDE, SIDE))).astype(np.uint8)
        images = np.array([0x803, count, SIDE, SIDE], ">u4").tobytes() + pixels.tobytes()
        heads = np.array([0x801, count], ">u4").tobytes() + labels.astype(np.uint8).tobytes()
        for kind, content in (("images-idx3", images), ("labels-idx1", heads)):
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return pixels


def options(folder, **changes) -> dict:
    """Options of a training with every augmentation that these images have."""
    return {
        "images": folder,
        "model": "tiny_28",
        "dataset": "fashion_mnist",
        "val_split": "test",
        "in_channels": 1,
        "auto_augment": "randaug-m5",
        "re_prob": 0.3,
        "mixup": 0.2,
        "num_classes": 10,
        "image_resize": SIDE,
        **changes,
    }


@pytest.fixture
def clothes(tmp_path):
    write_clothes(tmp_path / "data" / "fashion-mnist")
    return tmp_path / "data"


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_stopped_within_an_epoch_goes_on_bit_for_bit(ranks, clothes, tmp_path):
    runs = Runs(tmp_path, clothes)
    settings = options(clothes, epoch_size=2, save_every_steps=4, keep_checkpoint_max=2)
    done = runs.train("whole", ranks, **settings)
    assert "native loader, from memory" in done.out
    folder = runs.copy("whole", "again")
    states = sorted((tmp_path / folder / "resume").glob("*.safetensors"))
    # The last states are those of step 4 of 6 in the second epoch, and of its end.
    states[-1].unlink()
    again = runs.train(folder, ranks, resume="auto", **settings)
    assert "continuing after batch 4 of 6 of epoch 2" in again.out
    assert runs.outcome(folder) == runs.outcome("whole")


def refused(done) -> str:
    assert done.status == 2
    assert "Traceback" not in done.out + done.err
    assert done.err.count("error: ") == 1
    return done.err


@pytest.mark.parametrize("case", ["truncated", "missing", "offline"])
def test_unusable_files_are_one_message_and_status_2(case, clothes, scripts):
    folder = clothes / "fashion-mnist"
    images = folder / "train-images-idx3-ubyte.gz"
    if case == "truncated":
        images.write_bytes(images.read_bytes()[:-10])
        part = "train-images-idx3-ubyte.gz can't be unpacked: Compressed file ended before"
    else:
        images.unlink()
        part = "fashion_mnist isn't complete in .*missing train-images-idx3-ubyte "
    if case == "offline":
        for file in folder.iterdir():  # made for this test, so not the files that are fetched
            file.unlink()
        # A proxy that doesn't answer, so that the test reaches no network even where there is one.
        scripts.environ.update(https_proxy="http://127.0.0.1:9", no_proxy="")
        part = "fashion_mnist can't be downloaded to .*(?s:.)*Connection refused"
    changes = options(clothes, dataset_download=str(case == "offline").lower())
    words = recipe(changes.pop("images"), **{**changes, "model": "ghost_resnet20_cifar"})
    text = refused(scripts.train(*words, status=2))
    assert re.search(part, text)


@pytest.mark.slow
def test_predictions_of_an_exported_network_have_the_names_of_clothes(tmp_path):
    pixels = write_clothes(tmp_path / "data")
    scripts = Scripts(tmp_path)
    arguments = options(tmp_path / "data", model="ghost_resnet20_cifar", epoch_size=1)
    words = recipe(arguments.pop("images"), **{**arguments, "val_while_train": "false"})
    scripts.train(*words, "--ckpt_save_dir", "run")
    config = ["--config", "run/config.yaml"]
    exported = ["--ckpt_path", "run/last.ckpt", "--format", "onnx", "--output", "out"]
    scripts.export(*config, *exported)
    shutil.rmtree(tmp_path / "data")
    for k in (0, 1):
        Image.fromarray(pixels[k]).save(tmp_path / f"{k}.png")
    model = next((tmp_path / "out").glob("*.onnx"))
    done = scripts.script("infer.py", "0.png", "1.png", "--model", model, "--json", "--topk", "10")
    for line in done.out.strip().splitlines():
        labels = {each["label"] for each in json.loads(line)["predictions"]}
        assert {"T-shirt/top", "Ankle boot", "Bag"} <= labels
