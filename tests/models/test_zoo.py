"""What every model of this package keeps, whichever it is: it is enough to register one."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindcv.models import registry
from mindspore import Tensor, nn

import mindcv_ghost  # noqa: F401
from mindcv_ghost.errors import UserError

SIDE = 64
# Compiling takes seconds a model; one of each kind of block stands for the others.
COMPILED = ("ghost_resnet18", "ghost_resnet50")


def entry_module(name: str) -> str:
    return registry.model_entrypoint(name).__module__


ZOO = [name for name in mindcv.list_models() if entry_module(name).startswith("mindcv_ghost.")]


@pytest.fixture(autouse=True)
def pynative():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


def images(channels: int = 3, count: int = 2) -> Tensor:
    random = np.random.RandomState(0)
    return Tensor(random.standard_normal((count, channels, SIDE, SIDE)).astype(np.float32))


class Loss(nn.Cell):
    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = nn.CrossEntropyLoss()

    def construct(self, x, labels):
        return self.loss(self.network(x), labels)


def test_the_zoo_is_what_it_says():
    assert {"ghost_resnet18", "ghost_resnet50", "ghost_resnet152"} <= set(ZOO)
    assert mindcv.list_models("ghost_resnet*") == sorted(
        f"ghost_resnet{depth}" for depth in (18, 34, 50, 101, 152)
    )


def test_no_family_file_has_a_name_that_mindcv_uses():
    # MindCV keys modules by the last part of their path.
    ours = {entry_module(name).rsplit(".", 1)[-1] for name in ZOO}
    theirs = {entry_module(n).rsplit(".", 1)[-1] for n in mindcv.list_models() if n not in ZOO}
    assert not ours & theirs


@pytest.mark.parametrize("name", ZOO)
def test_entry_point_is_named_and_configured_as_mindcv_expects(name):
    entry_point = registry.model_entrypoint(name)
    assert entry_point.__name__ == name and entry_point.__doc__
    config = registry.get_pretrained_cfg(name)
    assert {"url", "num_classes", "first_conv", "classifier"} <= set(config)
    names = [p.name for p in mindcv.create_model(name, num_classes=3).get_parameters()]
    assert f"{config['first_conv']}.weight" in names
    assert f"{config['classifier']}.weight" in names
    assert len(set(names)) == len(names)
    # The same every time: a checkpoint of today fits the network of tomorrow.
    assert [p.name for p in mindcv.create_model(name).get_parameters()] == names


@pytest.mark.parametrize("name", ZOO)
def test_pretrained_is_refused_where_no_weights_are_published(name):
    if registry.get_pretrained_cfg(name)["url"]:
        pytest.skip("has published weights")
    with pytest.raises(UserError, match=f"{name} has no published weights"):
        mindcv.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_of_a_one_channel_network_gets_a_gradient(name):
    network = mindcv.create_model(name, num_classes=5, in_channels=1).set_train()
    parameters = network.trainable_params()
    gradient = ms.value_and_grad(Loss(network), None, parameters)
    loss, gradients = gradient(images(channels=1), Tensor(np.array([1, 4], np.int32)))
    assert np.isfinite(loss.asnumpy())
    assert len(gradients) == len(parameters)
    for parameter, g in zip(parameters, gradients):
        values = g.asnumpy()
        assert np.isfinite(values).all() and np.abs(values).max() > 0, parameter.name


@pytest.mark.parametrize("name", ZOO)
def test_features_come_from_five_stages_at_their_strides(name):
    network = mindcv.create_model(name, features_only=True).set_train(False)
    features = network(images(count=1))
    assert [f.shape[2:] for f in features] == [(SIDE // s, SIDE // s) for s in (2, 4, 8, 16, 32)]
    assert [f.shape[1] for f in features] == network.out_channels


@pytest.mark.parametrize("name", COMPILED)
def test_chosen_features_are_those_that_the_whole_network_passes_on(name):
    network = mindcv.create_model(name, features_only=True, out_indices=[1, 4]).set_train(False)
    whole = mindcv.create_model(name).set_train(False)
    values = {p.name: p for p in whole.get_parameters()}
    for parameter in network.get_parameters():
        parameter.set_data(values[parameter.name])
    first, last = network(images())
    assert first.shape[2:] == (SIDE // 4, SIDE // 4)
    expected = whole.forward_features(images()).asnumpy()
    np.testing.assert_array_equal(last.asnumpy(), expected)


@pytest.mark.parametrize("name", COMPILED)
def test_graph_mode_computes_what_pynative_does(name):
    network = mindcv.create_model(name, num_classes=5).set_train(False)
    expected = network(images()).asnumpy()
    ms.set_context(mode=ms.GRAPH_MODE)
    got = network(images()).asnumpy()
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
