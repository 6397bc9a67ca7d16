"""GhostNet, its successors and RepGhostNet as one operator in evaluation."""

from __future__ import annotations

import ctypes

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.kernels.channels_last import write_program
from mindcv_ghost.kernels.exchange import is_native
from mindcv_ghost.kernels.install import install, uninstall
from mindcv_ghost.kernels.program import NotCovered
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.surgery import deploy

from ..helpers.randomised import randomise

pytestmark = pytest.mark.usefixtures("graph_mode")

MODELS = ("ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "repghostnet_058")


def make(name: str, deployed: bool = False) -> nn.Cell:
    """A network with random weights, in evaluation.

    They are small enough for the values not to grow from layer to layer, as rounding would, too.
    """
    network = mindcv.create_model(name, num_classes=11).set_train(False)
    randomise(network)
    for parameter in network.get_parameters():
        if parameter.ndim == 4:
            parameter.set_data(Tensor(0.5 * parameter.asnumpy()))
    return deploy(network) if deployed else network


def images(count: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(2)
    return random.normal(size=(count, 3, height, width)).astype(np.float32)


def assert_close(got: np.ndarray, expected: np.ndarray, bound: float = 1e-5) -> None:
    assert np.abs(got - expected).max() < bound * np.abs(expected).max()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_stock_operators_on_one_to_three_threads(handle, name):
    ms.set_context(mode=ms.PYNATIVE_MODE)  # the stock operators need not be compiled
    network = make(name)
    program = write_program(network)
    parameters = [parameter.asnumpy() for parameter in program.parameters]
    assert len(parameters) == len(network.parameters_dict())
    for x in (images(1, 97, 75), images(3, 64, 34)):
        expected = network(Tensor(x)).asnumpy()
        found = []
        for threads in (1, 2, 3):
            handle.ghost_set_threads(ctypes.c_int(threads))
            inputs = [program.numbers, x, *parameters]
            found += call(handle, "ghost_channels_last", inputs, [expected.shape])
        # On a processor without AVX-512, GhostNetV3's logits were 1.2e-5 apart.
        assert_close(found[0], expected, 2e-5 if name.startswith("ghostnetv3") else 1e-5)
        assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


@pytest.mark.parametrize(
    ("name", "mode"),
    [("ghostnetv3_050", ms.PYNATIVE_MODE), ("repghostnet_058", ms.GRAPH_MODE)],
    ids=["pynative", "graph"],
)
def test_the_deploy_form_is_one_operator_with_the_same_logits(built, name, mode):
    ms.set_context(mode=mode)
    network, x = make(name, deployed=True), Tensor(images(2, 65, 63))
    expected = network(x).asnumpy()
    install(network, built)
    assert len(network.evaluation.parameters) == len(network.parameters_dict())
    assert_close(network(x).asnumpy(), expected)


def test_every_call_reads_the_weights_that_the_network_has_then(built):
    network, x = make("ghostnet_050"), Tensor(images(1, 40, 40))
    install(network, built)
    before = network(x).asnumpy()
    network.classifier.bias.set_data(network.classifier.bias + 10)
    after = network(x).asnumpy()
    assert np.abs(after - before - 10).max() < 1e-3
    uninstall(cell for _, cell in network.cells_and_names())
    assert not is_native(network)
    assert_close(after, network(x).asnumpy())


def test_a_new_classifier_is_the_one_that_is_used(built):
    network = make("repghostnet_058")
    install(network, built)
    network.reset_classifier(4)
    assert network.evaluation is not None
    assert network(Tensor(images(1, 40, 40))).shape == (1, 4)


def test_a_network_with_a_layer_without_a_step_is_evaluated_layer_by_layer(built):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network, x = make("repghostnet_058"), Tensor(images(1, 40, 40))
    network.act2 = nn.HSwish()
    install(network, built)
    assert network.evaluation is None
    got = network(x).asnumpy()
    uninstall(cell for _, cell in network.cells_and_names())
    assert_close(got, network(x).asnumpy())


def test_hooks_and_training_mode_leave_every_layer_its_operator(built):
    network, x = make("ghostnetv2_100"), Tensor(images(1, 40, 40))
    install(network, built)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    seen = []
    handle = network.blocks[2].register_forward_hook(lambda cell, x, y: seen.append(y.shape))
    assert network.evaluation is None
    network(x)
    assert seen == [(1, 24, 10, 10)]
    handle.remove()
    assert network.evaluation is not None
    network.blocks.set_train(True)
    assert network.evaluation is None


@pytest.mark.parametrize("change", ["kernel", "stride", "norm", "gate", "activation"])
def test_layers_without_a_step_are_refused(change):
    network = make("ghostnet_050")
    block = network.blocks[3][0]
    if change == "kernel":
        network.conv_head = nn.Conv2d(480, 1280, 3, pad_mode="same", has_bias=True)
    elif change == "stride":
        block.conv_dw.stride = (3, 3)
    elif change == "norm":
        block.bn_dw = nn.InstanceNorm2d(36)
    elif change == "gate":
        block.se.gate = nn.Sigmoid()
    else:
        block.ghost1.primary_conv[2] = nn.ReLU6()
    with pytest.raises(NotCovered):
        write_program(network)


def test_programs_that_do_not_fit_their_parameters_are_refused(handle):
    network = make("repghostnet_058")
    program = write_program(network)
    parameters = [parameter.asnumpy() for parameter in program.parameters]
    x = images(1, 33, 33)
    for numbers, given, shape in (
        (program.numbers[:-1], parameters, (1, 11)),
        (program.numbers, parameters[:-1], (1, 11)),
        (program.numbers, [parameters[0][:, :2], *parameters[1:]], (1, 11)),
        (program.numbers, parameters, (1, 12)),
        ([2, *program.numbers[1:]], parameters, (1, 11)),
        ([*program.numbers, 9], parameters, (1, 11)),
    ):
        with pytest.raises(ValueError, match="ghost_channels_last refuses"):
            call(handle, "ghost_channels_last", [numbers, x, *given], [shape])


def test_a_call_does_not_visit_the_cells_of_a_native_network(built):
    network, x = make("repghostnet_058"), Tensor(images(1, 40, 40))
    install(network, built)
    network(x)
    assert network.blocks.compile_phase == network.compile_phase
    network.blocks._compile_phase = "of another graph"
    network(x)
    assert network.blocks.compile_phase == "of another graph"
