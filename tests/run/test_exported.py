"""An exported network gives the checkpoint's counts, and its labels without MindSpore."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindcv_ghost.config import Config, load_config
from mindcv_ghost.data import Augment, EvalLoader, FolderSource
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.evaluator import Evaluator, NetworkForward
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.export import to_onnx
from mindcv_ghost.launch.world import World
from mindcv_ghost.run.exported import open_exported_network
from mindcv_ghost.run.preprocessing import describe_recipe
from mindcv_ghost.surgery.bn_statistics import recompute_running_statistics

from ..data.conftest import make_split
from ..helpers.exported import description, write_embedded, write_means
from ..helpers.randomised import randomise
from ..inference.test_light import BLOCK

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {name: 3 for name in ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")}
# A network of each family; the first one, which compiles in seconds, stands for the others.
FAMILIES = [
    *("ghost_resnet20_cifar", "ghost_vgg16_cifar", "ghost_resnet18", "ghost_resnet50"),
    *("g_ghost_regnetx_002", "ghostnet_050", "ghostnetv2_100", "ghostnetv3_050"),
    "repghostnet_050",
]
SIDE = 64


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    make_split(root / "val", CLASSES)
    return root


def configuration(images: Path, *words: str) -> Config:
    side = str(SIDE)
    return load_config(
        ["--dataset", "folder", "--data_dir", str(images), "--image_resize", side, *words],
        script="validate",
    )


def exported(name: str, images: Path, folder: Path) -> tuple[nn.Cell, Config]:
    """A network with random weights, and the configuration that validates its .onnx file."""
    path = folder / f"{name}.onnx"
    network = mindcv.create_model(name, num_classes=len(CLASSES))
    randomise(network)
    settle(network, images)
    config = configuration(images, "--model", name, "--onnx", str(path))
    to_onnx(network, path, image_size=(SIDE, SIDE), description=describe_recipe(config))
    return network, config


def settle(network: nn.Cell, images: Path) -> None:
    """Make random weights a sane network: BN knows its maps, and classes have the mean logit 0.

    Otherwise maps grow by orders of magnitude, and one class is chosen for all images.
    """
    network.set_train(False)
    batches = loader(images).batches().create_tuple_iterator(output_numpy=True)
    pixels = np.concatenate([image[valid == 1] for image, _, valid in batches])
    recompute_running_statistics(network, [pixels])
    mean = NetworkForward(network, graph_mode=False)(ms.Tensor(pixels)).mean(0)
    [bias] = [p for p in network.trainable_params() if p.shape == mean.shape][-1:]
    bias.set_data(bias - ms.Tensor(mean))


def loader(images: Path) -> EvalLoader:
    # A batch that the set doesn't fill, so that padding is among the images.
    return EvalLoader(FolderSource(str(images / "val")), Augment(image_resize=SIDE), batch_size=9)


@pytest.mark.parametrize(
    "name",
    [FAMILIES[0], *(pytest.param(name, marks=pytest.mark.zoo) for name in FAMILIES[1:])],
)
def test_a_family_is_validated_and_predicted_from_its_onnx_file(name, images, tmp_path):
    network, config = exported(name, images, tmp_path)
    forward = NetworkForward(network, graph_mode=False)
    runs = [
        Evaluator(f, len(CLASSES), Collectives()).run(loader(images).batches())
        for f in (forward, open_exported_network(config, len(CLASSES), World()))
    ]
    assert runs[0].images == runs[1].images == 24
    assert np.array_equal(runs[0].confusion, runs[1].confusion)
    assert (runs[0].correct, runs[0].correct_topk) == (runs[1].correct, runs[1].correct_topk)
    assert runs[1].loss == pytest.approx(runs[0].loss, rel=1e-4)
    assert len(set(np.flatnonzero(runs[0].confusion.sum(0)))) > 1  # not one class for everything

    code = "from mindcv_ghost.commands.dispatch import main; sys.exit(main(sys.argv[1:]))"
    words = ["infer", str(images / "val"), "--model", config.evaluate.onnx, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    confusion = np.zeros_like(runs[0].confusion)
    for row in rows:
        best = row["predictions"][0]
        assert best["label"] == list(CLASSES)[best["index"]]
        confusion[list(CLASSES).index(Path(row["image"]).parent.name), best["index"]] += 1
    assert np.array_equal(confusion, runs[0].confusion)


def test_a_file_that_does_not_fit_the_recipe_is_refused(images, tmp_path):

    def refused(path: Path, words: str, classes: int = 3) -> None:
        with pytest.raises(CheckpointError) as error:
            config = configuration(images, "--onnx", str(path), "--image_resize", "6")
            forward = open_exported_network(config, classes, World())
            forward.prepare(ms.Tensor(np.zeros((2, 3, 6, 6), np.float32)))
        assert words in str(error.value)

    whole = write_means(tmp_path / "whole.onnx", description())
    refused(whole, "gives 3 outputs an image, but there are 8 classes", classes=8)
    refused(write_means(tmp_path / "large.onnx", None, side=9), "takes images of shape (3, 9, 9)")
    refused(write_embedded(tmp_path / "embedded.onnx"), "prepares images itself")
    refused(tmp_path / "x.mindir", "the suffix must be .onnx")
    refused(tmp_path / "missing.onnx", "doesn't exist")


def test_another_preprocessing_than_the_exports_is_warned_of(images, tmp_path, caplog):
    path = write_means(tmp_path / "a.onnx", description())
    words = ["--onnx", str(path), "--image_resize", "6"]
    for mean, warnings in (("1,2,3", 1), ("0,0,0", 0)):
        caplog.clear()
        same = ["--mean", mean, "--std", "64,64,64", "--crop_pct", "1"]
        open_exported_network(configuration(images, *words, *same), 3, World())
        assert len(caplog.records) == warnings
