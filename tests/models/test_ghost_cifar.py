"""The paper's CIFAR-10 networks: the paper's counts, and shortcuts without weights."""

from __future__ import annotations

from functools import partial

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import mindcv_ghost  # noqa: F401
from mindcv_ghost.analysis.complexity import count_macs, count_parameters
from mindcv_ghost.layers import GhostModule
from mindcv_ghost.models.ghost_resnet_cifar import GhostCifarBlock


# As the paper prints them, in millions.
@pytest.mark.parametrize(
    "ratio, cheap_kernel_size, parameters, operations",
    [(2, 1, 7.6, 157), (2, 3, 7.7, 158), (2, 5, 7.7, 160), (2, 7, 7.7, 163)]
    + [(3, 3, 5.2, 107), (4, 3, 4.0, 80), (5, 3, 3.3, 65)],
)
def test_ghost_vgg16_has_the_papers_counts(ratio, cheap_kernel_size, parameters, operations):
    network = mindcv.create_model(
        "ghost_vgg16_cifar", num_classes=10, ratio=ratio, cheap_kernel_size=cheap_kernel_size
    )
    report = count_macs(network, (1, 3, 32, 32))
    assert round(report.parameters / 1e6, 1) == parameters
    # The paper's operations are those of the convolutions.
    convolutions = sum(layer.macs for layer in report.layers if layer.kind == "Conv2d")
    assert round(convolutions / 1e6) == operations


def test_ghost_resnet56_has_the_papers_counts_with_cheap_kernels_of_one():
    report = count_macs(mindcv.create_model("ghost_resnet56_cifar", num_classes=10), (1, 3, 32, 32))
    assert (report.parameters, report.macs) == (429_882, 63_009_408)
    three = mindcv.create_model("ghost_resnet56_cifar", num_classes=10, cheap_kernel_size=3)
    assert count_parameters(three) == 438_010


def test_a_thin_resnet20_has_as_many_operations_as_ghost_resnet20():
    counts = {}
    for name, options in (("ghost", {}), ("thin", {"ratio": 1, "width": 0.715})):
        network = mindcv.create_model("ghost_resnet20_cifar", num_classes=10, **options)
        counts[name] = count_macs(network, (1, 3, 32, 32)).macs
    assert [each["chs"] for each in network.feature_info] == [11, 23, 46]
    assert counts["thin"] == pytest.approx(counts["ghost"], rel=0.005)
    logits = network.set_train(False)(Tensor(np.zeros((2, 3, 28, 28), np.float32)))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("width", [0.0, 0.03, -1.0])
def test_a_width_that_leaves_no_channel_is_refused(width):
    with pytest.raises(ValueError, match="leaves no channel of 16"):
        mindcv.create_model("ghost_resnet20_cifar", num_classes=10, width=width)


def test_shortcut_takes_every_second_position_and_adds_zeros_on_both_sides():
    block = GhostCifarBlock(2, 6, 2, partial(GhostModule, cheap_kernel_size=1)).set_train(False)
    for branch in (block.conv2.primary, block.conv2.cheap):
        branch.bn.gamma.set_data(ms.ops.zeros_like(branch.bn.gamma))  # only the shortcut remains
    x = np.abs(np.random.RandomState(0).standard_normal((1, 2, 5, 5))).astype(np.float32)
    y = block(Tensor(x)).asnumpy()
    assert y.shape == (1, 6, 3, 3)
    np.testing.assert_array_equal(y[:, 2:4], x[:, :, ::2, ::2])
    assert np.abs(y[:, :2]).max() == np.abs(y[:, 4:]).max() == 0


@pytest.mark.parametrize("name", ["ghost_resnet20_cifar", "ghost_vgg16_cifar"])
def test_drop_rate_outside_its_range_is_refused(name):
    with pytest.raises(ValueError, match="drop_rate is 1.5"):
        mindcv.create_model(name, num_classes=10, drop_rate=1.5)
