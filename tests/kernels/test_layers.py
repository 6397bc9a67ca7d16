"""Layers of any network on native operators against MindSpore's, in one graph each."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.kernels.exchange import kind_of
from mindcv_ghost.kernels.install import use_library
from mindcv_ghost.layers import DFCAttention, GlobalAvgPool, SqueezeExcite

from ..helpers.randomised import randomise


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


class Attention(nn.Cell):
    """Maps weighted by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = DFCAttention(3, 3)

    def construct(self, x):
        if self.attention.native is not None:
            return self.attention.weigh(x, x)
        return x * self.attention(x, x)


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
    "attention": ("map", Attention, (3, 3, 9, 8)),
    "attention, even": ("map", Attention, (3, 3, 14, 28)),
}
NAMES, CASES = tuple(NAMED), tuple(NAMED.values())


class Case(nn.Cell):
    """A layer with what goes into it as a parameter, so that all gradients are parameters'."""

    def __init__(self, index: int) -> None:
        super().__init__()
        _, make, size = CASES[index]
        self.layer = make()
        random = np.random.default_rng(index)
        self.x = Parameter(Tensor(random.normal(size=size).astype(np.float32)))
        shape = self.layer(self.x).shape
        self.weight = Tensor(random.normal(size=shape).astype(np.float32))

    def construct(self):
        return self.layer(self.x)


class Cases(nn.Cell):
    """All cases; a weighted sum of what they give, and the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.CellList([Case(index) for index in range(len(CASES))])

    def construct(self):
        total, outputs = 0, ()
        for case in self.cases:
            y = case()
            total = total + (y * case.weight).sum()
            outputs += (y,)
        return total, outputs


def run(cases: Cases) -> dict:
    """Outputs, gradients and statistics after a step, and then the outputs of evaluation."""
    cases.set_train(True)
    parameters = cases.trainable_params()
    (_, outputs), gradients = ops.value_and_grad(cases, None, parameters, has_aux=True)()
    moving = [p for p in cases.get_parameters() if "moving" in p.name]
    result = {
        "outputs": [y.asnumpy() for y in outputs],
        "gradients": {p.name: d.asnumpy() for p, d in zip(parameters, gradients)},
        "moving": {p.name: p.asnumpy().copy() for p in moving},
    }
    cases.set_train(False)
    result["evaluation"] = [y.asnumpy() for y in cases()[1]]
    return result


@pytest.fixture(scope="module")
def both(built):
    before = ms.get_context("mode")
    results = {}
    for kind in ("stock", "native"):
        ms.set_context(mode=ms.PYNATIVE_MODE)
        cases = Cases()
        for case in cases.cases:
            randomise(case.layer)
        parameters = [(p.name, id(p)) for p in cases.get_parameters()]
        ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
        if kind == "native":
            results["report"] = use_library(cases, built)
            results["same parameters"] = parameters == [
                (p.name, id(p)) for p in cases.get_parameters()
            ]
        results[kind] = run(cases)
    ms.set_context(mode=before)
    return results


def assert_close(got, expected, least_scale=0.0):
    assert got.shape == expected.shape
    scale = max(np.abs(expected).max(), least_scale)
    assert np.abs(got - expected).max() <= 1e-5 * scale


def test_layers_are_native_and_their_parameters_the_same_objects_in_the_same_order(both, built):
    report, inside = both["report"], 2 * 2  # each attention's two depthwise convolutions
    assert (report.native, report.ghost_modules) == (0, 0)
    assert report.depthwise == sum(kind == "depthwise" for kind, *_ in CASES) + inside
    assert report.norms == sum(kind == "norm" for kind, *_ in CASES) + 2 * 3
    # An excitation's two and an attention's one are dense.
    dense = sum(kind == "convolution" for kind, *_ in CASES) + 2 + 2
    assert report.convolutions == dense
    assert both["same parameters"]


@pytest.mark.parametrize("index", range(len(CASES)), ids=list(NAMES))
def test_layer_computes_what_stock_operators_do(both, index):
    stock, native = both["stock"], both["native"]
    for what in ("outputs", "evaluation"):
        assert_close(native[what][index], stock[what][index])
    for what in ("gradients", "moving"):
        names = [name for name in stock[what] if name.startswith(f"cases.{index}.")]
        largest = max([np.abs(stock[what][name]).max() for name in names], default=0)
        for name in names:
            # A weight in front of a BN that undoes its length, such as a 1x1 kernel's, has a
            # gradient of nearly nought; what is left of it is rounding.
            assert_close(native[what][name], stock[what][name], 1e-2 * largest)


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
    use_library(nn.SequentialCell(layer), built)
    assert kind_of(layer) == "" and type(layer) is kind


def test_a_layer_that_is_used_in_two_places_is_replaced_once(built):
    shared = nn.BatchNorm2d(4)
    report = use_library(nn.SequentialCell(shared, nn.ReLU(), shared), built)
    assert report.norms == 1


def test_what_a_native_ghost_module_computes_itself_is_not_replaced(built):
    from mindcv_ghost.layers import GhostModule

    module = GhostModule(4, 8)
    report = use_library(module, built)
    assert (report.native, report.depthwise, report.norms) == (1, 0, 0)
    assert type(module.cheap.conv) is nn.Conv2d and type(module.primary.bn) is nn.BatchNorm2d


def test_layers_of_a_ghost_module_of_another_kind_are_replaced_one_by_one(built):
    from mindcv_ghost.layers import GhostModule

    report = use_library(GhostModule(4, 8, act=nn.SiLU), built)
    assert (report.native, report.depthwise, report.norms) == (0, 1, 2)
    assert "0 of 1 Ghost module," in str(report) and "the others stock" in str(report)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
def test_the_look_at_all_gradients_finds_the_one_value_that_is_not_finite(built, bad):
    from mindcv_ghost.kernels import all_finite

    arrays = [np.full(shape, 3e38, np.float32) for shape in ((3,), (2, 40_000), (1, 2, 3))]
    if bad is not None:
        arrays[1][1, -1] = bad
    finite = all_finite(str(built.path))(tuple(Tensor(array) for array in arrays))
    assert (finite.shape, bool(finite)) == ((), bad is None)


def test_without_a_library_there_is_no_native_look_at_gradients():
    from mindcv_ghost.kernels import all_finite

    assert all_finite("") is None


def test_enlarged_positions_are_mindspores(handle):
    from mindcv_ghost.kernels.calls import call

    for wide in range(1, 65):
        for narrow in {1, 2, 3, wide // 2, (wide + 1) // 2, wide - 1, wide} & set(
            range(1, wide + 1)
        ):
            weight = np.arange(1, narrow + 1, dtype=np.float32).reshape(1, 1, 1, narrow)
            (y,) = call(
                handle, "ghost_weight", [np.ones((1, 1, 1, wide)), weight], [(1, 1, 1, wide)]
            )
            stock = ops.interpolate(Tensor(weight), size=(1, wide), mode="nearest").asnumpy()
            np.testing.assert_array_equal(y, stock)
