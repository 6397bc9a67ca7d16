"""Blocks whose shortcut has no weights, and BN with its ReLU, against stock operators."""

from __future__ import annotations

from functools import partial

import pytest
from mindspore import nn

from mindcv_ghost.kernels.batch_norm import NativeConvNormAct
from mindcv_ghost.kernels.install import install
from mindcv_ghost.layers import ConvNormAct, GhostModule
from mindcv_ghost.models.ghost_resnet_cifar import GhostCifarBlock

from .stock_and_native import Case, Cases, assert_same_layer, compute_both


def block(channels: int, out_channels: int, stride: int, ratio: int) -> nn.Cell:
    ghost = partial(GhostModule, ratio=ratio, cheap_kernel_size=1)
    return GhostCifarBlock(channels, out_channels, stride, ghost)


# what makes the layer, shape of its images
NAMED = {
    "the same size": (lambda: block(4, 4, 1, 2), (5, 4, 8, 8)),
    "half the size, an odd number of new maps": (lambda: block(4, 9, 2, 2), (5, 4, 9, 7)),
    "more maps of the same size": (lambda: block(4, 6, 1, 2), (3, 4, 5, 6)),
    "without Ghost modules": (lambda: block(4, 4, 1, 1), (5, 4, 8, 8)),
    "half the size, without Ghost modules": (lambda: block(4, 8, 2, 1), (5, 4, 8, 8)),
    "convolution, BN, ReLU": (lambda: ConvNormAct(4, 6, 3, act=nn.ReLU), (5, 4, 9, 7)),
    "depthwise convolution, BN, ReLU": (
        *(lambda: ConvNormAct(4, 4, 3, 2, groups=4, act=nn.ReLU),),
        *((40, 4, 4, 4),),
    ),
}
NAMES, CASES = tuple(NAMED), tuple(NAMED.values())


@pytest.fixture(scope="module")
def both(built):
    return compute_both(
        lambda: Cases([Case(index, *case) for index, case in enumerate(CASES)]), built
    )


def test_each_layer_is_native_and_its_batch_norms_are_a_part_of_other_operators(both):
    *_, report, same_parameters = both
    assert (report.native_ghost_modules, report.ghost_modules) == (10, 10)
    assert (report.norms, report.depthwise) == (2, 1)  # of the last two
    assert same_parameters


@pytest.mark.parametrize("index", range(len(CASES)), ids=list(NAMES))
def test_layer_computes_what_stock_operators_do(both, index):
    stock, native, *_ = both
    # The gradient of a cheap 1x1 kernel is nearly zero: it consists of rounding errors.
    compared = assert_same_layer(stock, native, index, least=0.1)
    assert compared["gradients"] and compared["running"]


def test_a_relu_with_a_hook_stays_a_cell_that_is_called(built):
    layer = ConvNormAct(4, 6, act=nn.ReLU)
    layer.act.register_forward_pre_hook(lambda cell, inputs: None)
    report = install(layer, built)
    assert (type(layer), report.norms) == (ConvNormAct, 1)


def test_a_relu6_stays_stock_and_its_batch_norm_does_not(built):
    layers = nn.CellList([ConvNormAct(4, 6, act=nn.ReLU6), ConvNormAct(4, 6, act=nn.ReLU)])
    report = install(layers, built)
    assert [type(layer) for layer in layers] == [ConvNormAct, NativeConvNormAct]
    assert report.norms == 2
