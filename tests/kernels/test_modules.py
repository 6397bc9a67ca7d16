"""Ghost modules on native operators against the same modules on MindSpore's, in one graph each."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.kernels.install import use_library
from mindcv_ghost.layers import GhostModule

from ..helpers.randomised import randomise

# in, out, options of the module, shape of the images, whether a shortcut is added
NAMED = {
    "pointwise": (6, 8, dict(), (4, 9, 9), False),
    "dense 3x3 with stride": (6, 8, dict(kernel_size=3, stride=2), (3, 9, 11), False),
    "dense 5x5, cheap 1x1": (3, 8, dict(kernel_size=5, cheap_kernel_size=1), (2, 8, 8), False),
    "cheap 5x5, ratio 3, surplus": (4, 10, dict(ratio=3, cheap_kernel_size=5), (2, 7, 6), False),
    "cheap 7x7, ratio 4, surplus": (4, 9, dict(ratio=4, cheap_kernel_size=7), (2, 5, 5), False),
    "cheap 9x9": (4, 6, dict(cheap_kernel_size=9), (2, 6, 7), False),
    "without ReLU": (4, 6, dict(act=False), (2, 8, 8), False),
    "shortcut": (4, 9, dict(act=False), (3, 7, 7), True),
    "shortcut with stride": (4, 6, dict(act=False, stride=2), (3, 4, 4), True),
    "one image": (8, 8, dict(kernel_size=3), (1, 4, 4), False),
    "one row": (4, 6, dict(kernel_size=3), (2, 1, 5), False),
    "a bias, and padding on two sides": (
        *(4, 6, dict(kernel_size=3, padding=(0, 1, 1, 0), bias=True)),
        *((2, 6, 6), False),
    ),
    "a small batch of many": (4, 6, dict(kernel_size=3), (37, 4, 4), False),
}
NAMES, CASES = tuple(NAMED), tuple(NAMED.values())


class Case(nn.Cell):
    """A module with what goes into it as parameters, so that all gradients are parameters'."""

    def __init__(self, index: int) -> None:
        super().__init__()
        channels, out_channels, options, (images, height, width), self.added = CASES[index]
        self.module = GhostModule(channels, out_channels, **options)
        random = np.random.default_rng(index)
        stride, lost = options.get("stride", 1), 1 if "padding" in options else 0
        size = (-(-(height - lost) // stride), -(-(width - lost) // stride))

        def parameter(*shape):
            return Parameter(Tensor(random.normal(size=shape).astype(np.float32)))

        self.x = parameter(images, channels, height, width)
        self.shortcut = parameter(images, out_channels, *size)
        self.weight = Tensor(random.normal(size=self.shortcut.shape).astype(np.float32))
        self.relu = nn.ReLU()

    def construct(self):
        if not self.added:
            return self.module(self.x) + 0 * self.shortcut
        if self.module.native_tail is not None:
            return self.module.native(self.x, self.shortcut)
        return self.relu(self.module(self.x) + self.shortcut)


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
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    results = {}
    for kind in ("stock", "native"):
        cases = Cases()
        for case in cases.cases:
            randomise(case.module)
        if kind == "native":
            results["report"] = use_library(cases, built)
            results["names"] = [p.name for p in cases.get_parameters()]
        results[kind] = run(cases)
    results["stock names"] = [p.name for p in Cases().get_parameters()]
    ms.set_context(mode=before)
    return results


def assert_close(got, expected, least_scale=0.0):
    assert got.shape == expected.shape
    scale = max(np.abs(expected).max(), least_scale)
    assert np.abs(got - expected).max() <= 1e-5 * scale


def test_all_modules_are_native_and_their_parameters_keep_names_and_order(both):
    report = both["report"]
    assert (report.native, report.ghost_modules) == (len(CASES), len(CASES))
    assert report.convolutions in (0, len(CASES) - 1)  # the lopsided one stays stock
    assert both["names"] == both["stock names"]


@pytest.mark.parametrize("index", range(len(CASES)), ids=list(NAMES))
def test_module_computes_what_stock_operators_do(both, index):
    stock, native = both["stock"], both["native"]
    for what in ("outputs", "evaluation"):
        assert_close(native[what][index], stock[what][index])
    for what, least in (("gradients", 8), ("moving", 4)):
        names = [name for name in stock[what] if name.startswith(f"cases.{index}.")]
        assert len(names) >= least
        largest = max(np.abs(stock[what][name]).max() for name in names)
        for name in names:
            # A bias in front of a BN has no gradient but rounding, a cheap 1x1 kernel nearly none.
            vanishes = name.endswith("bias") or stock[what][name].shape[1:] == (1, 1, 1)
            assert_close(native[what][name], stock[what][name], largest if vanishes else 0.0)


def test_moving_statistics_of_both_batch_norms_have_moved(both):
    for index, case in enumerate(Cases().cases):
        for name, before in randomise(case.module).items():
            if "moving" in name:
                assert np.abs(both["native"]["moving"][name] - before).max() > 1e-3, index


@pytest.mark.parametrize(
    "options",
    [
        dict(act=nn.SiLU),
        dict(act=nn.ReLU, act_on_output=False),
        dict(permuted=True),
        dict(norm=False),
        dict(norm=lambda channels: nn.GroupNorm(1, channels)),
        dict(ratio=1),
    ],
    ids=("SiLU", "a ReLU behind both", "permuted", "no norm", "a norm of groups", "no ghosts"),
)
def test_module_of_another_kind_stays_stock(built, options):
    module = GhostModule(4, 6, **options)
    report = use_library(module, built)
    assert (report.native, report.ghost_modules) == (0, 1)
    assert module.native_tail is None


def test_module_that_computes_in_half_precision_or_with_fixed_statistics_stays_stock(built):
    half, fixed, synchronised = (GhostModule(4, 6) for _ in range(3))
    half.to_float(ms.float16)
    fixed.cheap.bn.use_batch_statistics = False

    class Special(nn.BatchNorm2d):
        pass

    synchronised.primary.bn = Special(3)
    for module in (half, fixed, synchronised):
        assert use_library(module, built).native == 0
