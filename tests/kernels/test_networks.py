"""Whole networks on native operators against the same weights on MindSpore's."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.kernels.switch import use_library

from ..randomised import randomise


@pytest.fixture(autouse=True)
def graph_mode():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    yield
    ms.set_context(mode=before)


def step(network: nn.Cell, image: Tensor, label: Tensor) -> tuple[float, dict, dict]:
    """Loss, gradients, and the moving statistics behind one pass in training."""
    network.set_train(True)
    parameters = network.trainable_params()

    def forward(image, label):
        return ops.cross_entropy(network(image), label)

    loss, gradients = ops.value_and_grad(forward, None, parameters)(image, label)
    moving = {p.name: p.asnumpy().copy() for p in network.get_parameters() if "moving" in p.name}
    return float(loss), {p.name: g.asnumpy() for p, g in zip(parameters, gradients)}, moving


@pytest.mark.parametrize(
    ("name", "options", "modules"),
    [
        pytest.param("ghost_resnet18", {}, 19, id="ghost_resnet18"),
        pytest.param("ghost_resnet18", dict(ratio=3), 19, id="surplus", marks=pytest.mark.slow),
        pytest.param("ghost_resnet50", {}, 52, id="ghost_resnet50", marks=pytest.mark.slow),
        pytest.param("ghost_resnet20", {}, 19, id="ghost_resnet20", marks=pytest.mark.slow),
        pytest.param("ghost_vgg16", {}, 13, id="ghost_vgg16", marks=pytest.mark.slow),
        pytest.param("ghostnetv2_100", {}, 32, id="ghostnetv2_100", marks=pytest.mark.slow),
    ],
)
def test_network_learns_and_predicts_as_on_stock_operators(built, name, options, modules):
    random = np.random.default_rng(2)
    image = Tensor(random.normal(size=(8, 3, 65, 63)).astype(np.float32))
    label = Tensor(random.integers(0, 7, 8).astype(np.int32))
    results = []
    for native in (False, True):
        network = mindcv.create_model(name, num_classes=7, **options)
        randomise(network)
        if native:
            report = use_library(network, built)
            assert (report.native, report.ghost_modules) == (modules, modules)
        loss, gradients, moving = step(network, image, label)
        logits = network.set_train(False)(image).asnumpy()
        results.append((loss, gradients, moving, logits))
    (loss, gradients, moving, logits), native = results
    assert abs(native[0] - loss) < 1e-5 * abs(loss)
    assert list(native[1]) == list(gradients) and list(native[2]) == list(moving)
    # Rounding grows on the way back through the network, by its depth: hence not 1e-5.
    for index, expected, tolerance in ((1, gradients, 1e-3), (2, moving, 1e-4)):
        largest = max(np.abs(values).max() for values in expected.values())
        for key, values in expected.items():
            scale = max(np.abs(values).max(), 1e-3 * largest)
            assert np.abs(native[index][key] - values).max() < tolerance * scale, key
    assert np.abs(native[3] - logits).max() < 1e-4 * np.abs(logits).max()
