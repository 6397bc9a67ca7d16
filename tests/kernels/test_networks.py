"""Whole networks on native operators against the same weights on MindSpore's."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import GRAPH_MODE, PYNATIVE_MODE, Tensor, nn, ops, set_context

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.kernels.install import install

from ..helpers.randomised import randomise

pytestmark = pytest.mark.usefixtures("graph_mode")


def step(network: nn.Cell, image: Tensor, label: Tensor) -> tuple[float, dict, dict]:
    """Loss, gradients, and the running statistics after one pass in training."""
    network.set_train(True)
    parameters = network.trainable_params()

    def forward(image, label):
        return ops.cross_entropy(network(image), label)

    loss, gradients = ops.value_and_grad(forward, None, parameters)(image, label)
    running = {p.name: p.asnumpy().copy() for p in network.get_parameters() if "moving" in p.name}
    return float(loss), {p.name: g.asnumpy() for p, g in zip(parameters, gradients)}, running


def results(name: str, options: dict, image: np.ndarray, library=None) -> tuple:
    """Loss, gradients, running statistics and logits of a network with random weights."""
    network = mindcv.create_model(name, num_classes=7, **options)
    randomise(network)
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Dropout):  # MindCV's mobilenet_v2 has no argument for it
            cell.p = 0.0
    if library is not None:
        report = install(network, library)
        assert report.native_ghost_modules == report.ghost_modules
        assert report.native_ghost_modules + report.norms >= 13
    label = Tensor(np.arange(len(image), dtype=np.int32) % 7)
    loss, gradients, running = step(network, Tensor(image), label)
    logits = network.set_train(False)(Tensor(image)).asnumpy()
    return {"loss": np.array(loss)}, gradients, running, {"logits": logits}


def distance(got: dict, expected: dict) -> float:
    """The greatest difference, each array's relative to its own greatest value."""
    assert list(got) == list(expected)
    largest = max(np.abs(values).max() for values in expected.values())
    return max(
        np.abs(got[name] - values).max() / max(np.abs(values).max(), 1e-3 * largest)
        for name, values in expected.items()
    )


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, 3, 65, 63)).astype(np.float32)


def rounded_images(count: int = 8) -> np.ndarray:
    """The images with a relative error of 1e-6, about that of a convolution in float32."""
    error = 1 + 1e-6 * np.random.default_rng(3).standard_normal(images(count).shape)
    return (images(count) * error).astype(np.float32)


def distance_from_kinks(network: nn.Cell, image: np.ndarray) -> float:
    """How far all values stay from where a gradient jumps, in their layer's standard deviations.

    At a ReLU's zero, and where two values of a pooling window are equal, rounding decides which
    gradient is right, and releases of MindSpore round differently.
    """
    distances = []

    def before_relu(cell, inputs):
        values = inputs[0].asnumpy()
        distances.append(np.abs(values).min() / values.std())

    def before_pool(cell, inputs):  # 3x3, stride 2
        values = inputs[0].asnumpy()
        windows = np.lib.stride_tricks.sliding_window_view(values, (3, 3), (2, 3))[:, :, ::2, ::2]
        windows = np.sort(windows.reshape(*windows.shape[:4], 9))
        behind = windows[..., -1:] - windows
        # Copies of the padding, and windows without a maximum above zero.
        behind[(behind == 0) | (windows[..., -1:] == 0)] = np.inf
        distances.append(behind.min() / values.std())

    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.ReLU):
            cell.register_forward_pre_hook(before_relu)
        elif isinstance(cell, nn.MaxPool2d):
            cell.register_forward_pre_hook(before_pool)
    set_context(mode=PYNATIVE_MODE)
    network.set_train(True)(Tensor(image))
    set_context(mode=GRAPH_MODE)
    assert len(distances) == 26  # 25 ReLUs and the pool
    return min(distances)


def smooth_images() -> np.ndarray:
    """Images at which ghost_resnet18 is differentiable: rounding moves no value across a kink."""
    for seed in range(60):
        candidate = np.random.default_rng(seed).normal(size=(2, 3, 65, 63)).astype(np.float32)
        network = mindcv.create_model("ghost_resnet18", num_classes=7)
        randomise(network)
        if distance_from_kinks(network, candidate) > 5e-6:
            return candidate
    raise AssertionError("every image has a value near a kink")


def test_network_learns_and_predicts_as_on_stock_operators(built):
    image = smooth_images()
    stock = results("ghost_resnet18", {}, image)
    native = results("ghost_resnet18", {}, image, built)
    loss, gradients, running, logits = (
        distance(got, expected) for got, expected in zip(native, stock)
    )
    assert loss < 1e-5 and running < 1e-5 and logits < 1e-5
    assert gradients < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ghost_resnet18", dict(ratio=3)),
        ("ghost_resnet50", {}),
        ("ghost_resnet20_cifar", {}),
        ("ghost_vgg16_cifar", {}),
        ("ghostnetv2_100", {}),
        ("ghostnetv3_100", {}),
        ("repghostnet_100", {}),
        ("resnet50", {}),
        ("mobilenet_v2_100", {}),
    ],
    ids=str,
)
def test_network_differs_from_stock_operators_no_more_than_these_do_by_rounding(
    built, name, options
):
    stock = results(name, options, images())
    # How much results on stock operators change with the last digits of the images.
    rounded = results(name, options, rounded_images())
    native = results(name, options, images(), built)
    # A value that rounding moves across zero before a ReLU changes gradients by a percent.
    for got, other, expected, least in zip(native, rounded, stock, (1e-5, 0.05, 1e-5, 1e-5)):
        assert distance(got, expected) < max(least, 10 * distance(other, expected))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", ["ghost_resnet50", "ghostnetv2_100", "ghostnetv3_100", "repghostnet_100", "resnet18"]
)
def test_network_differs_in_pynative_mode_no_more_than_in_graph_mode_by_rounding(built, name):
    graph = results(name, {}, images(2), built)
    rounded = results(name, {}, rounded_images(2), built)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    eager = results(name, {}, images(2), built)
    for got, other, expected in zip(eager, rounded, graph):
        assert distance(got, expected) < max(1e-5, 10 * distance(other, expected))
