"""What differs in MindCV's repository (0.5.0), which PyPI doesn't have, on a stand-in.

It is written after the repository's mindcv/models/helpers.py and vgg.py: networks are made of
mindspore.mint layers, and ``create_model`` renames BN's parameters in a checkpoint.
"""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindcv.models import model_factory, registry
from mindspore import mint, nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost import compat
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.registry import create_model_by_name
from mindcv_ghost.storage.checkpoint import load_weights, save_weights
from mindcv_ghost.surgery import ghostify

NEW_NAMES = {
    "beta": "bias",
    "gamma": "weight",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class MintNetwork(nn.Cell):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.SequentialCell(
            [mint.nn.Conv2d(in_channels, 8, 3, padding=1, bias=False), mint.nn.BatchNorm2d(8)]
        )
        self.classifier = mint.nn.Linear(8, num_classes)

    def construct(self, x):
        return self.classifier(mint.mean(self.features(x), (2, 3)))


def load_as_main_does(model, checkpoint_path="", ema=False, auto_mapping=False):
    stored = ms.load_checkpoint(checkpoint_path)
    for name in list(stored):
        for old, new in NEW_NAMES.items():
            if name.endswith(old):
                stored[name[: -len(old)] + new] = stored.pop(name)
                break
    ms.load_param_into_net(model, stored)


@pytest.fixture
def main(monkeypatch):
    """Turns the installed MindCV into what its repository is, as far as this package can tell."""

    def mint_network(pretrained=False, num_classes=1000, in_channels=3, **kwargs):
        return MintNetwork(num_classes, in_channels)

    monkeypatch.setattr(mindcv, "__version__", "0.5.0")
    monkeypatch.setattr(model_factory, "load_model_checkpoint", load_as_main_does)
    monkeypatch.setitem(registry._model_entrypoints, "mint_network", mint_network)


def test_this_packages_networks_are_created_and_computed(main):
    network = create_model_by_name("ghost_resnet20_cifar", {"ratio": 4}, num_classes=3)
    logits = network.set_train(False)(ms.Tensor(np.ones((2, 3, 32, 32), np.float32)))
    assert logits.shape == (2, 3) and not compat.mint_convolutions(network)


def test_a_network_of_mint_layers_is_refused_on_the_cpu(main):
    told = r"MindCV 0\.5\.0 builds mint_network of .*features\.0.*mindcv==0\.3\.0"
    with pytest.raises(ConfigError, match=told):
        create_model_by_name("mint_network", num_classes=3)


def test_ghostify_says_that_it_replaces_no_mint_layers(main):
    with pytest.raises(ValueError, match=r"MintNetwork has only mindspore\.mint's \(features\.0\)"):
        ghostify(mindcv.create_model("mint_network", num_classes=3))


def test_weights_are_loaded_though_mains_own_loader_would_skip_every_bn(main, tmp_path):
    path = str(tmp_path / "a.ckpt")
    trained = mindcv.create_model("ghost_resnet20_cifar", num_classes=3)
    for parameter in trained.get_parameters():
        if parameter.name.endswith("moving_mean"):
            parameter.set_data(ms.Tensor(np.full(parameter.shape, 0.25, np.float32)))
    save_weights(list(trained.get_parameters()), path)

    def mean(network) -> float:
        means = [p for p in network.get_parameters() if p.name.endswith("moving_mean")]
        return float(np.mean([p.asnumpy().mean() for p in means]))

    skipped = mindcv.create_model("ghost_resnet20_cifar", num_classes=3, checkpoint_path=path)
    assert mean(skipped) == 0.0  # what a user of MindCV's own function would get
    network = create_model_by_name("ghost_resnet20_cifar", num_classes=3)
    load_weights(network, path)
    assert mean(network) == 0.25
