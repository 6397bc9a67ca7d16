"""Grouped convolutions computed in parts give the same numbers from the same parameters."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.layers import GhostModule, compute_in_parts
from mindcv_ghost.layers.depthwise_in_parts import DepthwiseInParts

pytestmark = pytest.mark.usefixtures("graph_mode")


def values(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(7).normal(size=shape).astype(np.float32))


class Weighted(nn.Cell):
    """A sum over a cell's outputs in which each has another weight."""

    def __init__(self, cell: nn.Cell, weights: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.cell, self.weights = cell, weights

    def construct(self, x):
        return (self.cell(x) * self.weights).sum()


def outputs_and_gradients(cell: nn.Cell, x: Tensor) -> list[np.ndarray]:
    outputs = cell(x)
    loss = Weighted(cell, values(*outputs.shape))
    _, (of_input, of_weights) = ops.value_and_grad(loss, 0, cell.trainable_params())(x)
    return [each.asnumpy() for each in (outputs, of_input, *of_weights)]


@pytest.mark.parametrize("parts", [3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "pad_mode": "pad"},
        {"kernel_size": 1},
        {"kernel_size": (3, 5), "stride": 2, "pad_mode": "same", "has_bias": True},
        {"kernel_size": 3, "dilation": 2, "pad_mode": "valid"},
    ],
    ids=["3x3", "1x1", "3x5_stride_bias", "dilated"],
)
def test_parts_give_the_outputs_and_gradients_of_the_whole(parts, options):
    conv = nn.Conv2d(6, 6 * parts, group=6, **options)
    if conv.has_bias:
        conv.bias.set_data(values(6 * parts))
    conv.weight.set_data(values(*conv.weight.shape))
    x = values(2, 6, 9, 11)
    whole = outputs_and_gradients(conv, x)
    names = list(conv.parameters_dict())
    assert compute_in_parts(conv) == 1
    assert list(conv.parameters_dict()) == names
    for one, other in zip(whole, outputs_and_gradients(conv, x)):
        # The same products, summed in another order.
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_a_ghost_module_of_ratio_4_changes_in_its_cheap_branch_alone():
    module = GhostModule(16, 32, 3, ratio=4)
    assert compute_in_parts(module) == 1
    assert type(module.cheap.conv) is DepthwiseInParts
    assert type(module.primary.conv) is nn.Conv2d


@pytest.mark.parametrize(
    ("model", "options", "changed"),
    [
        ("ghost_resnet18", {}, 0),
        ("ghost_resnet18", {"ratio": 3}, 0),  # two maps of each, as PiT has them
        ("ghost_resnet18", {"ratio": 4}, 19),
        ("g_ghost_regnetx_002", {}, 0),
        ("mobilenet_v2_100", {}, 0),
    ],
)
def test_networks_change_only_where_no_trained_network_shows_that_it_works(model, options, changed):
    assert compute_in_parts(mindcv.create_model(model, **options)) == changed


@pytest.mark.slow
def test_checkpoints_fit_both_ways(tmp_path):
    def network(in_parts: bool) -> nn.Cell:
        made = mindcv.create_model("ghost_resnet20_cifar", num_classes=10, ratio=5)
        if in_parts:
            assert compute_in_parts(made) > 0
        return made.set_train(False)

    x = values(2, 3, 32, 32)
    for first, second in ((True, False), (False, True)):
        written = network(first)
        ms.save_checkpoint(written, str(tmp_path / "w.ckpt"))
        read = network(second)
        loaded = ms.load_checkpoint(str(tmp_path / "w.ckpt"))
        assert ms.load_param_into_net(read, loaded) == ([], [])
        np.testing.assert_allclose(read(x).asnumpy(), written(x).asnumpy(), rtol=1e-4, atol=1e-5)
