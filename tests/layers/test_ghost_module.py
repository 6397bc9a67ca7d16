"""The Ghost module against NumPy, and what it refuses."""

from __future__ import annotations

import doctest

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.layers import GhostModule, ghost_module, kaiming_normal_fan_out, split_channels

from ..helpers.numpy_reference import ghost_module as numpy_ghost_module
from ..helpers.randomised import randomise


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    return request.param


def images(*shape: int) -> np.ndarray:
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


CASES = {
    "1x1": dict(in_channels=6, out_channels=8),
    "3x3 stride 2, even side": dict(in_channels=6, out_channels=8, kernel_size=3, stride=2),
    "1x1 stride 2": dict(in_channels=6, out_channels=8, stride=2, act=False),
    "cropped by 1 of 11": dict(in_channels=4, out_channels=10, ratio=4, cheap_kernel_size=5),
    "cheap 1x1": dict(in_channels=4, out_channels=9, ratio=3, cheap_kernel_size=1),
    "ratio 1": dict(in_channels=4, out_channels=7, kernel_size=3, stride=2, ratio=1),
    "ratio = out": dict(in_channels=4, out_channels=5, ratio=5, kernel_size=7),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", CASES)
def test_module_computes_what_numpy_does(case, training):
    settings = CASES[case]
    module = GhostModule(**settings)
    parameters = randomise(module)
    x = images(3, settings["in_channels"], 10, 13)
    got = module.set_train(training)(Tensor(x)).asnumpy()
    expected = numpy_ghost_module(
        x.astype(np.float64),
        parameters,
        "",
        settings["out_channels"],
        settings.get("stride", 1),
        settings.get("act", True),
        training,
    )
    stride = settings.get("stride", 1)
    assert got.shape == (3, settings["out_channels"], -(-10 // stride), -(-13 // stride))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_graph_and_pynative_agree_with_numpy_where_maps_are_cropped(mode):
    module = GhostModule(4, 10, kernel_size=3, ratio=4, stride=2)
    parameters = randomise(module)
    x = images(2, 4, 9, 8)
    got = module.set_train(False)(Tensor(x)).asnumpy()
    expected = numpy_ghost_module(x.astype(np.float64), parameters, "", 10, stride=2)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_split_has_fewer_surplus_maps_than_one_intrinsic_map_brings():
    for out_channels in range(1, 40):
        for ratio in range(1, out_channels + 1):
            intrinsic, ghost = split_channels(out_channels, ratio)
            assert ghost == intrinsic * (ratio - 1)
            assert out_channels <= intrinsic + ghost < out_channels + ratio
    assert doctest.testmod(ghost_module).failed == 0


def test_only_a_surplus_is_cropped():
    assert not GhostModule(4, 8, ratio=4).has_surplus
    assert GhostModule(4, 10, ratio=4).has_surplus


def test_ratio_one_has_no_cheap_branch():
    names = list(GhostModule(4, 8, ratio=1).parameters_dict())
    assert sorted(names) == [
        "primary.bn.beta",
        "primary.bn.gamma",
        "primary.bn.moving_mean",
        "primary.bn.moving_variance",
        "primary.conv.weight",
    ]


def test_parameters_are_named_by_branch():
    names = [p.name for p in GhostModule(4, 8).trainable_params()]
    assert names == [
        "primary.conv.weight",
        "primary.bn.gamma",
        "primary.bn.beta",
        "cheap.conv.weight",
        "cheap.bn.gamma",
        "cheap.bn.beta",
    ]


@pytest.mark.parametrize("act", [nn.Sigmoid, nn.Sigmoid()], ids=["class", "cell"])
def test_another_activation_follows_both_branches(act):
    module = GhostModule(4, 8, act=act).set_train(False)
    y = module(Tensor(images(2, 4, 5, 5))).asnumpy()
    assert y.min() > 0.0 and y.max() < 1.0
    assert isinstance(module.primary.act, nn.Sigmoid) and isinstance(module.cheap.act, nn.Sigmoid)


def test_a_class_of_activation_with_parameters_gives_each_branch_its_own():
    names = list(GhostModule(4, 8, act=nn.PReLU).parameters_dict())
    assert {"primary.act.w", "cheap.act.w"} <= set(names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(cheap_kernel_size=4), "cheap_kernel_size is 4, .* odd kernel"),
        (dict(kernel_size=2), "kernel_size is 2, .* odd kernel"),
        (dict(ratio=9), "ratio is 9, but a Ghost module of 8 maps needs a ratio within 1..8"),
        (dict(ratio=0), "ratio is 0, but it must be a whole number of at least 1"),
        (dict(ratio=2.0), "ratio is 2.0"),
        (dict(ratio=True), "ratio is True"),
        (dict(stride=0), "stride is 0"),
        (dict(out_channels=0), "out_channels is 0"),
        (dict(in_channels=-3), "in_channels is -3"),
        (dict(act=nn.PReLU()), "act is a PReLU with parameters"),
    ],
)
def test_impossible_settings_are_refused_with_the_value_and_the_legal_ones(settings, message):
    with pytest.raises(ValueError, match=message):
        GhostModule(**{"in_channels": 4, "out_channels": 8, **settings})


def test_what_is_no_activation_is_refused():
    with pytest.raises(TypeError, match="act is 'relu'; legal are True, False, a cell"):
        GhostModule(4, 8, act="relu")


def test_depthwise_weights_start_with_the_spread_of_one_group():
    assert kaiming_normal_fan_out(64, 3, groups=64).sigma == pytest.approx(np.sqrt(2 / 9))
    assert kaiming_normal_fan_out(64, 3).sigma == pytest.approx(np.sqrt(2 / (64 * 9)))
    module = GhostModule(8, 2048, kernel_size=3)
    spread = {name: p.asnumpy().std() for name, p in module.parameters_dict().items()}
    assert spread["cheap.conv.weight"] == pytest.approx(np.sqrt(2 / 9), rel=0.05)
    assert spread["primary.conv.weight"] == pytest.approx(np.sqrt(2 / (1024 * 9)), rel=0.05)
