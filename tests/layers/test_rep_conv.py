"""Parallel branches and the one convolution that they are in evaluation."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

import mindcv_ghost
from mindcv_ghost.layers import RepConv
from mindcv_ghost.surgery import deploy, ghostify, has_deploy_form


def randomise(network: nn.Cell) -> None:
    random = np.random.RandomState(0)
    for parameter in network.get_parameters():
        if parameter.name.endswith(("moving_mean", "beta")):
            value = random.normal(0.0, 0.3, parameter.shape)
        elif parameter.name.endswith(("moving_variance", "gamma")):
            # Small scales, so that the sums of many branches neither grow nor vanish.
            low, high = (0.2, 0.6) if parameter.name.endswith("gamma") else (0.5, 1.5)
            value = random.uniform(low, high, parameter.shape)
        else:
            continue
        parameter.set_data(Tensor(value.astype(np.float32)))


def images(side: int, channels: int = 3) -> Tensor:
    random = np.random.RandomState(1)
    return Tensor(random.standard_normal((2, channels, side, side)).astype(np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1, "branches": 3},
        {"kernel_size": 3, "groups": 6, "scale": True, "skip": True, "act": nn.ReLU},
        {"kernel_size": 5, "groups": 6, "scale": True, "stride": 2},
        {"kernel_size": 3, "groups": 6, "branches": 1, "skip": True},
    ],
)
@pytest.mark.parametrize("side", [8, 7])
def test_deploy_form_computes_the_same(options, side):
    trained = RepConv(6, 6, **options).set_train(False)
    randomise(trained)
    deployed = RepConv(6, 6, deploy=True, **options).set_train(False)
    kernel, bias = trained.fused()
    deployed.conv.weight.set_data(Tensor(kernel))
    deployed.conv.bias.set_data(Tensor(bias))
    expected = trained(images(side, 6)).asnumpy()
    got = deployed(images(side, 6)).asnumpy()
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_running_it_leaves_the_parameters_names():
    layer = RepConv(4, 4, 3, groups=4, branches=3)
    before = [p.name for p in layer.get_parameters()]
    layer(images(8, 4))
    assert [p.name for p in layer.get_parameters()] == before
    assert before[0].startswith("branches.0.")


def test_skip_where_shapes_differ_is_refused():
    with pytest.raises(ValueError, match="skip needs a depthwise convolution of stride 1"):
        RepConv(4, 8, 3, groups=4, skip=True)


@pytest.mark.parametrize("name", ["ghostnetv3_050", "repghostnet_050"])
def test_deployed_network_evaluates_as_the_trained_one_and_leaves_it_alone(name):
    ms.set_seed(0)
    network = mindcv_ghost.create_model(name, num_classes=5).set_train(False)
    randomise(network)
    expected = network(images(64)).asnumpy()
    deployed = deploy(network)
    got = deployed(images(64)).asnumpy()
    close = {"rtol": 0.0, "atol": 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(got, expected, **close)
    np.testing.assert_allclose(network(images(64)).asnumpy(), expected, **close)
    built = mindcv_ghost.create_model(name, num_classes=5, deploy=True)
    assert [p.name for p in built.get_parameters()] == [p.name for p in deployed.get_parameters()]
    assert has_deploy_form(network) and not has_deploy_form(deployed)


def test_a_network_inside_another_cell_is_deployed_by_its_paths():
    network = mindcv_ghost.create_model("repghostnet_050", num_classes=5).set_train(False)
    expected = network(images(64)).asnumpy()
    nn.SequentialCell(network, nn.Softmax())  # puts "0." before the names of its parameters
    got = deploy(network)(images(64)).asnumpy()
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-5 * np.abs(expected).max())


def test_branches_are_not_merged_after_other_layers_were_replaced():
    network = mindcv_ghost.create_model("repghostnet_050", num_classes=5)
    report = ghostify(network, image_size=64)[1]
    reasons = {row.name: row.reason for row in report.kept}
    assert reasons["blocks.0.0.ghost1.primary.conv"] == "part of a Ghost module"
    assert report.replaced and not has_deploy_form(network)
    with pytest.raises(ValueError, match="in training form, without ghostify"):
        deploy(network)
    network = mindcv_ghost.create_model("ghostnetv3_050", num_classes=5)
    network.conv_stem = nn.SequentialCell(network.conv_stem)
    with pytest.raises(ValueError, match="GhostNetV3 isn't as it was built: it has no conv_stem"):
        deploy(network)


@pytest.mark.parametrize("name", ["ghost_resnet18", "ghostnetv2_100"])
def test_network_without_branches_has_no_deploy_form(name):
    with pytest.raises(ValueError, match="has no parallel branches to merge"):
        deploy(mindcv_ghost.create_model(name, num_classes=5))
