"""Ghost modules on native operators against the same modules on MindSpore's, in one graph each."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.kernels.ghost_tail import NativeGhostBasicBlock, NativeGhostBottleneck
from mindcv_ghost.kernels.install import install
from mindcv_ghost.kernels.parameter_free_shortcut import NativeGhostCifarBlock
from mindcv_ghost.layers import GhostModule
from mindcv_ghost.models.ghost_resnet import GhostBasicBlock, GhostBottleneck
from mindcv_ghost.models.ghost_resnet_cifar import GhostCifarBlock

from ..helpers.randomised import randomise
from .stock_and_native import Cases, assert_close, compute_both

# in, out, options of the module, shape of the images, whether a shortcut is added
_OUTER = dict(act=nn.ReLU, act_on_output=False)
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
    "many small maps, cheap 1x1": (4, 11, dict(ratio=3, cheap_kernel_size=1), (37, 4, 4), False),
    "cheap 1x1, shortcut": (4, 6, dict(act=False, cheap_kernel_size=1), (3, 5, 7), True),
    "no cheap branch": (4, 6, dict(ratio=1), (3, 5, 7), False),
    "no cheap branch, shortcut": (4, 6, dict(ratio=1, act=False), (37, 4, 4), True),
    "a small batch of many": (4, 6, dict(kernel_size=3), (37, 4, 4), False),
    "the network's ReLU": (4, 6, _OUTER, (3, 5, 7), False),
    "the network's ReLU, shortcut": (4, 10, dict(ratio=3, **_OUTER), (2, 6, 6), True),
    "the network's ReLU, cheap 1x1": (4, 6, dict(cheap_kernel_size=1, **_OUTER), (3, 5, 7), False),
    "permuted": (4, 6, dict(permuted=True), (37, 4, 4), False),
    "permuted, surplus": (
        *(4, 10, dict(ratio=4, kernel_size=3, permuted=True, **_OUTER)),
        *((3, 6, 5), False),
    ),
    "permuted, surplus, cheap 1x1, shortcut": (
        *(4, 7, dict(cheap_kernel_size=1, permuted=True, **_OUTER)),
        *((5, 4, 4), True),
    ),
}
NAMES, CASES = tuple(NAMED), tuple(NAMED.values())


class Case(nn.Cell):
    """A module with what goes into it as parameters, so that all gradients are parameters'."""

    def __init__(self, index: int) -> None:
        super().__init__()
        channels, out_channels, options, (images, height, width), self.added = CASES[index]
        self.layer = GhostModule(channels, out_channels, **options)
        random = np.random.default_rng(index)
        if self.layer.order is not None:
            maps = self.layer.primary.conv.out_channels + self.layer.cheap.conv.out_channels
            order = random.permutation(maps)[:out_channels].astype(np.int32)
            self.layer.order.set_data(Tensor(order))
        stride, lost = options.get("stride", 1), 1 if "padding" in options else 0
        size = (-(-(height - lost) // stride), -(-(width - lost) // stride))

        def parameter(*shape):
            return Parameter(Tensor(random.normal(size=shape).astype(np.float32)))

        self.x = parameter(images, channels, height, width)
        self.shortcut = parameter(images, out_channels, *size)
        self.weight = Tensor(random.normal(size=self.shortcut.shape).astype(np.float32))
        self.relu = nn.ReLU()
        self.is_native = False

    def construct(self):
        if not self.added:
            return self.layer(self.x) + 0 * self.shortcut
        if self.is_native:
            return self.layer.add(self.x, self.shortcut)
        return self.relu(self.layer(self.x) + self.shortcut)


def make_cases() -> Cases:
    return Cases([Case(index) for index in range(len(CASES))])


@pytest.fixture(scope="module")
def both(built):
    return compute_both(make_cases, built)


def test_all_modules_are_native_and_their_parameters_keep_names_and_order(both):
    _, _, report, same_parameters = both
    assert (report.native_ghost_modules, report.ghost_modules) == (len(CASES), len(CASES))
    assert report.convolutions == len(CASES) - 1  # the one padded on two sides stays stock
    assert same_parameters


@pytest.mark.parametrize("index", range(len(CASES)), ids=list(NAMES))
def test_module_computes_what_stock_operators_do(both, index):
    stock, native, *_ = both
    for what in ("outputs", "evaluation"):
        assert_close(native[what][index], stock[what][index])
    branches = 1 if CASES[index][2].get("ratio") == 1 else 2
    for what, least in (("gradients", 2 + 3 * branches), ("running", 2 * branches)):
        names = [name for name in stock[what] if name.startswith(f"cases.{index}.")]
        assert len(names) >= least
        largest = max(np.abs(stock[what][name]).max() for name in names)
        for name in names:
            # The gradient of a bias before a BN is rounding error; a cheap 1x1 kernel's nearly is.
            vanishes = name.endswith("bias") or stock[what][name].shape[1:] == (1, 1, 1)
            assert_close(native[what][name], stock[what][name], largest if vanishes else 0.0)


def test_running_statistics_of_both_batch_norms_are_updated(both):
    _, native, *_ = both
    for index, case in enumerate(make_cases().cases):
        for name, before in randomise(case.layer).items():
            if "moving" in name:
                assert np.abs(native["running"][name] - before).max() > 1e-3, index


@pytest.mark.parametrize(
    "options",
    [
        dict(act=nn.SiLU),
        dict(act=nn.SiLU, act_on_output=False),
        dict(norm=False),
        dict(norm=lambda channels: nn.GroupNorm(1, channels)),
    ],
    ids=("SiLU", "a SiLU of the network's", "no norm", "a norm of groups"),
)
def test_module_of_another_kind_stays_stock(built, options):
    module = GhostModule(4, 6, **options)
    report = install(module, built)
    assert (report.native_ghost_modules, report.ghost_modules) == (0, 1)
    assert type(module) is GhostModule


def test_module_that_computes_in_half_precision_or_with_fixed_statistics_stays_stock(built):
    half, fixed, synchronised = (GhostModule(4, 6) for _ in range(3))
    half.to_float(ms.float16)
    fixed.cheap.bn.use_batch_statistics = False

    class Special(nn.BatchNorm2d):
        pass

    synchronised.primary.bn = Special(3)
    for module in (half, fixed, synchronised):
        assert install(module, built).native_ghost_modules == 0


def test_a_subclass_of_a_ghost_module_stays_stock(built):
    module = type("Special", (GhostModule,), {})(4, 6)
    assert install(module, built).native_ghost_modules == 0


def test_bias_of_a_primary_convolution_is_added(built, graph_mode):
    results = []
    for native in (False, True):
        module = GhostModule(4, 6, bias=True).set_train(False)
        randomise(module)
        if native:
            assert install(module, built).convolutions == 1
        results.append(module(Tensor(np.ones((1, 4, 5, 5), np.float32))).asnumpy())
    assert_close(results[1], results[0])


def test_gammas_of_zero_get_the_gradients_of_stock_operators(built, graph_mode):
    """A block's last BNs start so with zero_init_last."""
    gradients = []
    for native in (False, True):
        case = Case(NAMES.index("without ReLU"))
        randomise(case.layer)
        for branch in (case.layer.primary, case.layer.cheap):
            branch.bn.gamma.set_data(Tensor(np.zeros(3, np.float32)))
        if native:
            assert install(case, built).native_ghost_modules == 1
        cases = Cases([case]).set_train(True)
        parameters = cases.trainable_params()
        _, found = ops.value_and_grad(cases, None, parameters, has_aux=True)()
        gradients.append({p.name: d.asnumpy() for p, d in zip(parameters, found)})
    for name, expected in gradients[0].items():
        assert_close(gradients[1][name], expected, least_scale=1.0)
    assert np.abs(gradients[1]["cases.0.layer.primary.bn.gamma"]).min() > 1e-2


@pytest.mark.parametrize(
    ("make", "native"),
    [
        (
            lambda **o: GhostBasicBlock(8, 8, 1, partial(GhostModule, ratio=2, **o)),
            NativeGhostBasicBlock,
        ),
        (
            lambda **o: GhostBottleneck(8, 4, 2, partial(GhostModule, ratio=2, **o)),
            NativeGhostBottleneck,
        ),
        (
            lambda **o: GhostCifarBlock(4, 8, 2, partial(GhostModule, ratio=2, **o)),
            NativeGhostCifarBlock,
        ),
    ],
    ids=["basic", "bottleneck", "for small images"],
)
def test_blocks_are_exchanged_where_all_their_ghost_modules_are(built, make, native):
    block, mixed = make(cheap_kernel_size=3), make(cheap_kernel_size=3)
    mixed.conv1.to_float(ms.float16)
    kind = type(mixed)
    install(block, built)
    report = install(mixed, built)
    assert (type(block), type(mixed)) == (native, kind)
    assert report.native_ghost_modules == report.ghost_modules - 1
