"""``create_model(pretrained=...)``: the published weights, in a network that fits them."""

from __future__ import annotations

from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
import pytest

import mindcv_ghost
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.weights import finding
from tests.helpers.published import ship, write_published
from tests.helpers.randomised import randomise

MODEL = "ghost_resnet20_cifar"
HEAD = {"classifier.weight", "classifier.bias"}


def values(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with float16 weights of a network for grey images of three classes."""
    network = mindcv.create_model(MODEL, num_classes=3, in_channels=1, ratio=3)
    randomise(network)
    arrays = {
        name: array.astype(np.float16) if array.ndim > 1 else array
        for name, array in values(network).items()
    }
    root = tmp_path_factory.mktemp("package") / "shipped"
    write_published(root / MODEL / "pets", arrays)
    ship(root)
    return root / MODEL / "pets", {name: a.astype(np.float32) for name, a in arrays.items()}


@pytest.fixture
def shipped(published, monkeypatch):
    root = published[0].parents[1]
    monkeypatch.setattr(finding.importlib.resources, "files", lambda name: root.parent)


@pytest.mark.parametrize("create", [mindcv_ghost.create_model, mindcv.create_model])
def test_mindcvs_defaults_stand_for_the_published_classes_channels_and_arguments(
    create, published, shipped
):
    _, arrays = published
    loaded = values(create(MODEL, pretrained="pets"))
    assert loaded.keys() == arrays.keys()
    assert all(value.dtype == np.float32 for value in loaded.values())
    assert all((value == arrays[name]).all() for name, value in loaded.items())


@pytest.mark.parametrize("kind", [str, Path])
def test_the_entry_point_takes_a_folder(published, kind):
    folder, arrays = published
    network = mindcv.models.registry.model_entrypoint(MODEL)(
        pretrained=kind(folder), num_classes=3, in_channels=1
    )
    assert all((value == arrays[name]).all() for name, value in values(network).items())


def test_with_other_classes_the_classifier_is_left_out_and_that_is_told(published, caplog):
    folder, arrays = published
    with caplog.at_level("WARNING"):
        loaded = values(mindcv_ghost.create_model(MODEL, 7, pretrained=str(folder)))
    assert loaded["classifier.weight"].shape[0] == 7
    same = {name for name, value in loaded.items() if np.array_equal(value, arrays[name])}
    assert same == loaded.keys() - HEAD
    assert "new: classifier.weight, classifier.bias" in caplog.text


def test_features_only_has_the_published_weights(published):
    folder, arrays = published
    network = mindcv_ghost.create_model(
        MODEL, pretrained=str(folder), features_only=True, out_indices=[1, 2]
    )
    loaded = values(network)
    assert loaded and not HEAD & loaded.keys()
    assert all((value == arrays[name]).all() for name, value in loaded.items())


def test_a_network_computes_with_float16_weights_as_with_the_same_in_float32(published):
    folder, arrays = published
    image = ms.Tensor(np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32))
    network = mindcv_ghost.create_model(MODEL, pretrained=str(folder)).set_train(False)
    other = mindcv.create_model(MODEL, num_classes=3, in_channels=1, ratio=3).set_train(False)
    ms.load_param_into_net(other, {n: ms.Parameter(ms.Tensor(a)) for n, a in arrays.items()})
    assert (network(image).asnumpy() == other(image).asnumpy()).all()


def test_what_does_not_fit_is_refused(published, shipped):
    folder, _ = published
    with pytest.raises(CheckpointError, match="images of 1 channels: leave in_channels=4 out"):
        mindcv_ghost.create_model(MODEL, pretrained="pets", in_channels=4)
    with pytest.raises(CheckpointError, match="doesn't fit the network"):
        mindcv_ghost.create_model(MODEL, pretrained="pets", ratio=2)
    with pytest.raises(CheckpointError, match=f"weights of {MODEL}, not of ghost_resnet18"):
        mindcv_ghost.create_model("ghost_resnet18", pretrained=str(folder))
    with pytest.raises(ValueError, match="mutually exclusive"):
        mindcv_ghost.create_model(MODEL, pretrained="pets", checkpoint_path="a.ckpt")


def test_true_names_the_weights_that_there_are(shipped):
    with pytest.raises(CheckpointError, match="which weights .* 'pets', as pretrained='pets'"):
        mindcv.create_model(MODEL, pretrained=True)
    with pytest.raises(CheckpointError, match="ghost_resnet18 has no published weights, so pre"):
        mindcv.create_model("ghost_resnet18", pretrained=True)


def test_a_ghostified_network_is_for_the_commands(tmp_path):
    write_published(tmp_path / "pets", ghostify={"ratio": 2})
    with pytest.raises(CheckpointError, match="after ghostify, which create_model can't build"):
        mindcv_ghost.create_model(MODEL, pretrained=str(tmp_path / "pets"))
