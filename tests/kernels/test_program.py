"""Evaluation of a whole network as one operator."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_ghost.errors import UserError
from mindcv_ghost.kernels.install import install, uninstall
from mindcv_ghost.kernels.program import Activation, Kind, Program, Step
from mindcv_ghost.kernels.self_test import checks
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.models.ghost_resnet import GhostBasicBlock, GhostBottleneck, GhostResNet

from ..helpers.randomised import randomise

pytestmark = pytest.mark.usefixtures("graph_mode")


def make(block: type = GhostBasicBlock, num_classes: int = 7, **options) -> nn.Cell:
    """A network of a block in each stage with random weights, in evaluation."""
    network = GhostResNet(block, (1, 2, 1, 1), num_classes, **options).set_train(False)
    randomise(network)
    return network


def images(count: int, height: int = 65, width: int = 63) -> Tensor:
    random = np.random.default_rng(2)
    return Tensor(random.normal(size=(count, 3, height, width)).astype(np.float32))


def assert_close(got: Tensor, expected: Tensor) -> None:
    got, expected = got.asnumpy(), expected.asnumpy()
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def stock_result(network: nn.Cell, x: Tensor) -> Tensor:
    """What MindSpore's operators give for a network's present weights."""
    uninstall(cell for _, cell in network.cells_and_names())
    return network(x)


@pytest.mark.parametrize(
    ("block", "options", "x"),
    [
        (GhostBasicBlock, dict(ratio=3), images(3)),
        (GhostBottleneck, dict(cheap_kernel_size=5), images(1, 96, 70)),
        (GhostBottleneck, {}, images(2, 224, 224)),
    ],
    ids=["basic", "5x5", "large"],
)
def test_a_network_is_one_operator_and_gives_what_stock_operators_give(built, block, options, x):
    network = make(block, **options)
    install(network, built)
    assert len(network.evaluation.parameters) == len(network.parameters_dict())
    got, again = network(x), network(x)
    assert (got.asnumpy() == again.asnumpy()).all()
    assert_close(got, stock_result(network, x))


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_every_call_reads_the_weights_that_the_network_has_then(built, mode):
    ms.set_context(mode=mode)
    network, x = make(), images(2)
    install(network, built)
    before = network(x).asnumpy()
    randomise(network, seed=1)
    after = network(x)
    assert np.abs(after.asnumpy() - before).max() > 0.1 * np.abs(before).max()
    other = {name: Tensor(p.asnumpy() * 0.5) for name, p in network.parameters_dict().items()}
    ms.load_param_into_net(network, {name: ms.Parameter(p, name) for name, p in other.items()})
    loaded = network(x)
    assert_close(loaded, stock_result(network, x))
    randomise(network, seed=1)
    assert_close(after, network(x))


class Inside(nn.Cell):
    """A network as a part of a cell that MindSpore compiles."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.network = network

    def construct(self, x):
        return self.network(x)


def test_a_network_called_by_itself_is_not_compiled_and_gives_the_same_bits_as_compiled(built):
    network = make()
    install(network, built)
    for x in (images(1), images(3, 70, 64), images(1), ops.flip(images(2), (3,))):
        assert (network(x).asnumpy() == Inside(network)(x).asnumpy()).all()
    assert not network.compile_cache
    with pytest.raises(TypeError):
        network(images(1), images(1))


def test_a_tensor_whose_memory_is_not_in_order_is_evaluated_in_its_own_order(built):
    network, x = make(), images(2)
    install(network, built)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    view = x.swapaxes(2, 3)[1:]
    assert not view.is_contiguous()
    ms.set_context(mode=ms.GRAPH_MODE)
    copied = Tensor(np.ascontiguousarray(x.asnumpy().swapaxes(2, 3)[1:]))
    assert (network(view).asnumpy() == network(copied).asnumpy()).all()


def test_a_call_after_a_training_step_uses_the_weights_of_that_step(built):
    network, x = make(), images(4)
    install(network, built)
    before = network(x).asnumpy()
    loss = nn.WithLossCell(network, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss, nn.SGD(network.trainable_params(), 0.1)).set_train()
    step(x, Tensor(np.arange(4), ms.int32))
    network.set_train(False)
    after = network(x)
    assert np.abs(after.asnumpy() - before).max() > 1e-3 * np.abs(before).max()
    assert_close(after, stock_result(network, x))


def test_threads_may_call_a_network_at_the_same_time(built):
    network = make()
    install(network, built)
    given = [images(1 + i % 3, 64 + i % 2) for i in range(24)]
    expected = [network(x).asnumpy() for x in given]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(network, given))
    for got, wanted in zip(results, expected):
        assert (got.asnumpy() == wanted).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "x",
    [
        Tensor(np.ones((1, 4, 64, 64), np.float32)),
        Tensor(np.ones((3, 64, 64), np.float32)),
        Tensor(np.ones((1, 3, 64, 64), np.float16)),
        "images",
    ],
    ids=["4 channels", "3-D", "half", "text"],
)
def test_what_is_not_images_gets_the_error_of_a_compiled_network(built, x):
    network = make()
    install(network, built)
    network(images(1))
    errors = []
    for called in (network, Inside(network)):
        with pytest.raises((UserError, RuntimeError, ValueError, IndexError)) as raised:
            called(x)
        errors.append((raised.type, str(raised.value).splitlines()[0]))
    assert errors[0] == errors[1]


def test_a_parameter_in_another_type_is_refused(built):
    network = make()
    install(network, built)
    network(images(1))
    network.conv1.weight.set_dtype(ms.float16)
    with pytest.raises(UserError, match="computes in float32"):
        network(images(1))


def test_a_hook_or_another_mode_counts_from_the_next_call_on(built):
    network, x = make(), images(1)
    install(network, built)
    before = network(x)
    network.reset_classifier(4)
    network.set_train(True).set_train(False)
    assert (before.shape, network(x).shape) == ((1, 7), (1, 4))
    handle = network.layer2.register_forward_hook(lambda cell, inputs, output: output)
    assert network._evaluation_now() is None
    handle.remove()
    assert network._evaluation_now() is not None
    assert network.set_train(True)._evaluation_now() is None


def test_a_new_classifier_is_the_one_that_is_used(built):
    network = make()
    install(network, built)
    network.reset_classifier(4)
    assert network(images(1)).shape == (1, 4)


def test_a_network_whose_cells_have_to_be_called_is_evaluated_layer_by_layer(built):
    network, x = make(), images(1)
    install(network, built)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    seen = []
    handle = network.layer2.register_forward_hook(lambda cell, x, y: seen.append(y.shape))
    assert network.evaluation is None
    network(x)
    assert seen == [(1, 128, 9, 8)]
    handle.remove()
    assert network.evaluation is not None
    network.layer2.set_train(True)
    assert network.evaluation is None


@pytest.mark.parametrize(
    "options",
    [
        dict(pad_mode="same"),
        dict(pad_mode="valid"),
        dict(pad_mode="pad", padding=6, dilation=2),
    ],
    ids=["same", "valid", "dilation"],
)
def test_a_first_convolution_that_no_step_computes_is_computed_by_its_layer(built, options):
    network, x = make(), images(2)
    network.conv1 = nn.Conv2d(3, 64, 7, stride=2, **options).set_train(False)
    install(network, built)
    assert network.evaluation is None
    assert_close(network(x), stock_result(network, x))


def test_what_memory_holds_from_before_does_not_get_into_results(handle):
    class OnlyNaN:
        @staticmethod
        def normal(size):
            return np.full(size, np.nan)

        @staticmethod
        def uniform(low, high, size):
            return np.full(size, np.nan)

    # 49 of Winograd's tiles, of which one is no whole vector; and 18 channels, no whole vectors.
    checked = ((1, 2, 55, 56), 16, 18)
    with pytest.raises(AssertionError):
        checks._check_program(handle, OnlyNaN, (12, 2, 60, 72), 66, 18)
    checks._check_program(handle, np.random.default_rng(0), *checked)


def test_features_are_the_same_with_and_without_one_operator(built):
    network, x = make(num_classes=0), images(2)
    install(network, built)
    assert network.evaluation is not None
    got = network(x)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert_close(got, network.forward_features(x).mean((2, 3)))


def steps(**fields) -> list[float]:
    """A program of one 3x3 convolution from 2 to 4 channels, with a BN."""
    given = {"weight": 0, "norm": 1, "epsilon": 1e-5, **fields}
    return [float(number) for number in astuple(Step(Kind.CONVOLUTION, 0, 1, 0, 4, **given))]


@pytest.mark.parametrize(
    "fields",
    [
        dict(weight=9),
        dict(norm=2),
        dict(bias=0),
        dict(stride=0),
        dict(other=0),
        dict(other=3),
        dict(kind=7),
    ],
    ids=str,
)
def test_steps_that_do_not_fit_their_parameters_are_refused(handle, fields):
    x, weight, norm = np.ones((1, 2, 5, 6)), np.ones((4, 2, 3, 3)), [np.ones(4)] * 4
    kind = fields.pop("kind", 0)
    inputs = [[kind, *steps(**fields)[1:]], x, weight, *norm]
    with pytest.raises(ValueError, match="ghost_program refuses"):
        call(handle, "ghost_program", inputs, [(1, 4, 5, 6)])
    (y,) = call(handle, "ghost_program", [steps(), *inputs[1:]], [(1, 4, 5, 6)])
    assert y.shape == (1, 4, 5, 6) and abs(y[0, 0, 2, 2] - 18) < 1e-3


def test_a_parameter_that_two_cells_share_is_one_input():
    program, norm = Program(), nn.BatchNorm2d(4)
    conv = nn.Conv2d(4, 4, 1)
    x = program.convolution(program.images, conv, norm, Activation.RELU)
    program.convolution(x, conv, norm)
    assert len(program.parameters) == 5
