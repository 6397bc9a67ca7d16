"""Layers of any network on native operators against MindSpore's, in one graph each."""

from __future__ import annotations

from collections import Counter

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_ghost.kernels import make_all_finite
from mindcv_ghost.kernels.exchange import native_class
from mindcv_ghost.kernels.install import install
from mindcv_ghost.kernels.rescale import NativeAttentionGhostModule
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.layers import GhostModule, GlobalAvgPool, SqueezeExcite
from mindcv_ghost.models.ghostnet_v2 import AttentionGhostModule

from .stock_and_native import Case, Cases, assert_same_layer, compute_both


def conv(channels: int, out_channels: int, kernel, stride: int = 1, group: int = 1, **options):
    """A convolution padded by half its kernel, unless ``options`` say otherwise."""
    if "pad_mode" not in options:
        tall, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (tall // 2, tall // 2, wide // 2, wide // 2)
        options.update(pad_mode="pad", padding=padding)
    return nn.Conv2d(channels, out_channels, kernel, stride, group=group, **options)


def depthwise(channels: int, kernel, stride: int = 1, ratio: int = 1, **options):
    """A depthwise convolution."""
    return conv(channels, channels * ratio, kernel, stride, channels, **options)


# kind, what makes the layer, shape of its images
NAMED = {
    "3x3": ("depthwise", lambda: depthwise(4, 3), (3, 4, 9, 7)),
    "3x3, stride 2": ("depthwise", lambda: depthwise(4, 3, 2), (3, 4, 9, 7)),
    "3x3, stride 2, even": ("depthwise", lambda: depthwise(4, 3, 2), (40, 4, 8, 14)),
    "5x5": ("depthwise", lambda: depthwise(3, 5), (1, 3, 6, 6)),
    "5x5, stride 2": ("depthwise", lambda: depthwise(3, 5, 2), (2, 3, 11, 12)),
    "7x7": ("depthwise", lambda: depthwise(2, 7), (2, 2, 5, 9)),
    "9x9, stride 2": ("depthwise", lambda: depthwise(2, 9, 2), (2, 2, 5, 4)),
    "row of 5": ("depthwise", lambda: depthwise(3, (1, 5)), (3, 3, 7, 7)),
    "column of 5": ("depthwise", lambda: depthwise(3, (5, 1)), (3, 3, 3, 3)),
    "1x1, stride 2": ("depthwise", lambda: depthwise(3, 1, 2), (2, 3, 5, 6)),
    "two of each, bias": ("depthwise", lambda: depthwise(3, 3, 2, 2, has_bias=True), (2, 3, 6, 5)),
    "padded to the same": ("depthwise", lambda: depthwise(3, 5, pad_mode="same"), (2, 3, 6, 5)),
    "large maps": ("depthwise", lambda: depthwise(2, 3, 2), (2, 2, 112, 112)),
    "dense 3x3": ("convolution", lambda: conv(3, 5, 3, 2), (2, 3, 9, 8)),
    "dense 1x1, the same": ("convolution", lambda: conv(3, 5, 1, 2, pad_mode="same"), (2, 3, 9, 8)),
    "dense 1x1, bias": (
        *("convolution", lambda: conv(3, 5, 1, pad_mode="valid", has_bias=True)),
        *((2, 3, 4, 4),),
    ),
    "norm": ("norm", lambda: nn.BatchNorm2d(4), (3, 4, 9, 7)),
    "norm of many": ("norm", lambda: nn.BatchNorm2d(2, eps=1e-3, momentum=0.7), (70, 2, 9, 9)),
    "norm of large maps": ("norm", lambda: nn.BatchNorm2d(2), (2, 2, 70, 90)),
    "norm of one image": ("norm", lambda: nn.BatchNorm2d(3), (1, 3, 4, 5)),
    "mean": ("map", GlobalAvgPool, (3, 4, 9, 7)),
    "mean as maps": ("map", lambda: GlobalAvgPool(keep_dims=True), (2, 3, 80, 60)),
    "squeeze and excite": ("map", lambda: SqueezeExcite(4, 8), (3, 4, 9, 7)),
    "attention": ("attention", lambda: AttentionGhostModule(3, 4), (3, 3, 9, 8)),
    "attention, even": ("attention", lambda: AttentionGhostModule(3, 4), (3, 3, 14, 28)),
}
NAMES, CASES = tuple(NAMED), tuple(NAMED.values())


@pytest.fixture(scope="module")
def both(built):
    return compute_both(
        lambda: Cases([Case(index, *case[1:]) for index, case in enumerate(CASES)]), built
    )


def test_layers_are_native_and_their_parameters_the_same_objects_in_the_same_order(both):
    _, _, report, same_parameters = both
    counts = Counter(kind for kind, *_ in CASES)
    attentions = counts["attention"]  # each with a Ghost module, a dense and two depthwise
    assert (report.native_ghost_modules, report.ghost_modules) == (attentions, attentions)
    assert report.depthwise == counts["depthwise"] + 2 * attentions
    assert report.norms == counts["norm"] + 3 * attentions
    # A squeeze-and-excitation's two, an attention's and a Ghost module's one are dense.
    assert report.convolutions == counts["convolution"] + 2 + 2 * attentions
    assert same_parameters


@pytest.mark.parametrize("index", range(len(CASES)), ids=list(NAMES))
def test_layer_computes_what_stock_operators_do(both, index):
    stock, native, *_ = both
    # The gradient of a weight before a BN that undoes its length, such as that of a 1x1 kernel, is
    # nearly zero: it consists of rounding errors.
    assert_same_layer(stock, native, index, least=1e-2)


OF_ANOTHER_KIND = {
    "two groups": conv(4, 4, 3, group=2),
    "an even kernel": conv(4, 4, 4, pad_mode="valid"),
    "no padding": conv(4, 4, 3, pad_mode="valid"),
    "padded as the size wants it": conv(4, 4, 3, stride=2, pad_mode="same"),
    "dilated": conv(4, 4, 3, dilation=2),
    "a kernel of one row": conv(4, 4, (1, 3)),
    "a kernel of one row, of one map": conv(1, 4, (1, 3)),
    "depthwise, step 3": depthwise(4, 3, stride=3),
    "depthwise, dilated": depthwise(4, 3, dilation=2),
    "depthwise in half precision": depthwise(4, 3).to_float(ms.float16),
    "a BN in half precision": nn.BatchNorm2d(4).to_float(ms.float16),
    "a BN of fixed statistics": nn.BatchNorm2d(4, use_batch_statistics=False),
    "a BN of vectors": nn.BatchNorm1d(4),
    "a norm of groups": nn.GroupNorm(1, 4),
    "a subclass of BN": type("Special", (nn.BatchNorm2d,), {})(4),
    "a subclass of pooling": type("Special", (GlobalAvgPool,), {})(),
    "a dense layer": nn.Dense(4, 4),
}


@pytest.mark.parametrize("layer", OF_ANOTHER_KIND.values(), ids=OF_ANOTHER_KIND)
def test_layer_of_another_kind_stays_stock(layer, built):
    kind = type(layer)
    install(nn.SequentialCell(layer), built)
    assert native_class(layer) is None and type(layer) is kind


def test_attention_is_exchanged_and_its_parts_too(built):
    module = AttentionGhostModule(4, 6)
    install(module, built)
    assert type(module) is NativeAttentionGhostModule
    assert not [c for _, c in module.attention.cells_and_names() if type(c) is nn.Conv2d]


def test_a_layer_that_is_used_in_two_places_is_replaced_once(built):
    shared = nn.BatchNorm2d(4)
    report = install(nn.SequentialCell(shared, nn.ReLU(), shared), built)
    assert report.norms == 1


def test_what_a_native_ghost_module_computes_itself_is_not_replaced(built):
    module = GhostModule(4, 8)
    report = install(module, built)
    assert (report.native_ghost_modules, report.depthwise, report.norms) == (1, 0, 0)
    assert type(module.cheap.conv) is nn.Conv2d and type(module.primary.bn) is nn.BatchNorm2d


def test_layers_of_a_ghost_module_of_another_kind_are_replaced_one_by_one(built):
    report = install(GhostModule(4, 8, act=nn.SiLU), built)
    assert (report.native_ghost_modules, report.depthwise, report.norms) == (0, 1, 2)
    assert "0 of 1 Ghost module," in str(
        report
    ) and "MindSpore's for the other Ghost modules" in str(report)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
def test_the_check_of_all_gradients_finds_the_one_value_that_is_not_finite(built, bad):
    arrays = [np.full(shape, 3e38, np.float32) for shape in ((3,), (2, 40_000), (1, 2, 3))]
    if bad is not None:
        arrays[1][1, -1] = bad
    finite = make_all_finite(str(built.path))(tuple(Tensor(array) for array in arrays))
    assert (finite.shape, bool(finite)) == ((), bad is None)


def test_without_a_library_there_is_no_native_check_of_gradients():
    assert make_all_finite("") is None


def test_enlarged_positions_are_mindspores(handle):
    for wide in range(1, 65):
        for narrow in {1, 2, 3, wide // 2, (wide + 1) // 2, wide - 1, wide} & set(
            range(1, wide + 1)
        ):
            weight = np.arange(1, narrow + 1, dtype=np.float32).reshape(1, 1, 1, narrow)
            (y,) = call(
                handle, "ghost_rescale", [np.ones((1, 1, 1, wide)), weight], [(1, 1, 1, wide)]
            )
            stock = ops.interpolate(Tensor(weight), size=(1, wide), mode="nearest").asnumpy()
            np.testing.assert_array_equal(y, stock)
