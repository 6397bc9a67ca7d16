"""Ghost modules fitted to trained convolutions are exact where possible, close elsewhere."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.analysis.least_squares import sample_positions, values_at
from mindcv_ghost.layers import GhostModule
from mindcv_ghost.surgery.assignment import choose_sources
from mindcv_ghost.surgery.bn_statistics import recompute_running_statistics
from mindcv_ghost.surgery.filter_correction import correct_filters, input_patches
from mindcv_ghost.surgery.fit import fit_ghost_modules, load_fit
from mindcv_ghost.surgery.ghostify import ghostify

IN = 3


class Block(nn.Cell):
    """A 3x3 convolution, optionally with BN and ReLU."""

    def __init__(self, out: int, norm: bool, bias: bool, act: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(IN, out, 3, pad_mode="pad", padding=1, has_bias=bias)
        self.norm = nn.BatchNorm2d(out) if norm else None
        self.act = nn.ReLU() if act else None

    def construct(self, x):
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act is None else self.act(x)

    def site(self):
        return SimpleNamespace(name="conv", conv=self.conv, norm=self.norm, act=self.act)


def images(count: int = 12, side: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, IN, side, side)).astype(np.float32)


def put(parameter, values) -> None:
    parameter.set_data(Tensor(np.asarray(values, np.float32)))


def block_of_copies(
    bases: list[int], out: int, ratio: int, norm: bool, bias: bool = False, act: bool = False
) -> Block:
    """Make a block whose maps are a few base maps and 3x3 convolutions of these, the copies.

    A base's filter reads one pixel; a copy's filter is a base's filter times a 3x3 kernel. Filters
    of bases are positive and their shifts are zero: ReLU and zero padding then change nothing.
    """
    rng = np.random.default_rng(1)
    block = Block(out, norm, bias, act)
    weight = np.zeros((out, IN, 3, 3))
    weight[bases, :, 1, 1] = 0.5 + rng.random((len(bases), IN))
    copies = [number for number in range(out) if number not in bases]
    for index, number in enumerate(rng.permutation(copies)):
        base = bases[index // (ratio - 1)]
        weight[number] = weight[base, :, 1, 1][:, None, None] * rng.normal(size=(3, 3))
    put(block.conv.weight, weight)
    shift = rng.normal(size=out)
    shift[bases] = 0.0
    if bias:
        put(block.conv.bias, 0.0 * shift if norm else shift)
    if norm:
        gamma, variance = 0.5 + rng.random(out), 0.5 + rng.random(out)
        for name, values in (
            *(("gamma", gamma), ("beta", shift)),
            *(
                ("moving_mean", shift * np.sqrt(variance) / gamma * 0.5),
                ("moving_variance", variance),
            ),
        ):
            put(getattr(block.norm, name), values)
    return block


def module_for(block: Block, out: int, ratio: int, cheap_kernel_size: int = 3) -> GhostModule:
    return GhostModule(
        IN,
        out,
        3,
        ratio,
        cheap_kernel_size,
        act=False if block.act is None else block.act,
        bias=block.conv.has_bias,
        norm=block.norm is not None,
        act_on_output=False,
        permuted=True,
    )


def pre_activation(block: Block, x: np.ndarray) -> np.ndarray:
    block.set_train(False)
    y = block.conv(Tensor(x))
    return (y if block.norm is None else block.norm(y)).asnumpy()


def outputs(module: nn.Cell, x: np.ndarray, training: bool = False) -> np.ndarray:
    return module.set_train(training)(Tensor(x)).asnumpy()


COPIES = pytest.mark.parametrize(
    "bases, out, ratio",
    [([1, 2, 5], 6, 2), ([0, 3, 4, 6], 7, 2), ([2, 5, 7, 9], 10, 3)],
    ids=["ratio 2", "ratio 2, one too many", "ratio 3, two too many"],
)
FOLLOWERS = pytest.mark.parametrize(
    "norm, bias, act",
    [(True, False, True), (True, False, False), (True, True, True), (False, True, False)],
    ids=["bn relu", "bn", "bias bn relu", "bias"],
)


@COPIES
@FOLLOWERS
def test_fit_is_exact_if_maps_are_linear_copies(bases, out, ratio, norm, bias, act):
    block, x = block_of_copies(bases, out, ratio, norm, bias, act), images()
    fit = fit_ghost_modules(block, [block.site()], [x], ratio, 3)["conv"]
    assert fit.intrinsic.tolist() == bases
    assert fit.residuals.max() < 1e-6
    module = module_for(block, out, ratio)
    load_fit(module, fit)
    original = pre_activation(block, x)
    np.testing.assert_allclose(outputs(module, x), original, atol=2e-4)
    # On the calibration images, batch statistics equal the running statistics.
    np.testing.assert_allclose(outputs(module, x, training=True), original, atol=2e-4)


def test_fit_is_exact_on_unseen_images_if_maps_are_linear_copies():
    block = block_of_copies([1, 2, 5], 6, 2, norm=True, act=True)
    module = module_for(block, 6, 2)
    load_fit(module, fit_ghost_modules(block, [block.site()], [images()], 2, 3)["conv"])
    unseen = images(seed=5)
    np.testing.assert_allclose(outputs(module, unseen), pre_activation(block, unseen), atol=2e-4)


def test_no_constant_is_fitted_without_bn_and_bias():
    block = Block(4, norm=False, bias=False, act=False)
    fit = fit_ghost_modules(block, [block.site()], [images()], 2, 3)["conv"]
    assert fit.bias is fit.cheap_bias is fit.norm is fit.cheap_norm is None
    module = module_for(block, 4, 2)
    load_fit(module, fit)
    error = np.square(outputs(module, images()) - pre_activation(block, images()))
    variance = pre_activation(block, images()).var(axis=(0, 2, 3))
    np.testing.assert_allclose(error.mean(axis=(0, 2, 3)) / variance, fit.residuals, rtol=1e-3,
                               atol=1e-6)  # fmt: skip


def test_every_map_has_its_own_place_and_unused_places_have_zero_weights():
    block = block_of_copies([2, 5, 7, 9], 10, 3, norm=True)
    fit = fit_ghost_modules(block, [block.site()], [images()], 3, 3)["conv"]
    assert len(set(fit.order)) == 10
    assert fit.order[fit.intrinsic].tolist() == [0, 1, 2, 3]
    assert fit.order.max() < 4 + 4 * 2
    unused = sorted(set(range(8)) - set(fit.order - 4))
    assert len(unused) == 2
    assert not fit.cheap_weight[unused].any()


def test_dead_maps_stay_dead():
    block = block_of_copies([1, 2, 5, 6], 8, 2, norm=True, act=True)
    weight = block.conv.weight.asnumpy().copy()
    weight[[0, 7]] = 0.0
    put(block.conv.weight, weight)
    beta = block.norm.beta.asnumpy().copy()
    beta[[0, 7]] = -1.0
    put(block.norm.beta, beta)
    fit = fit_ghost_modules(block, [block.site()], [images()], 2, 3)["conv"]
    module = module_for(block, 8, 2)
    load_fit(module, fit)
    original = pre_activation(block, images())
    for training in (False, True):
        maps = outputs(module, images(), training)
        np.testing.assert_allclose(maps[:, [0, 7]], original[:, [0, 7]], atol=1e-4)
        assert np.isfinite(maps).all()


def test_a_block_with_only_dead_maps_is_fitted():
    block = Block(4, norm=True, bias=False, act=True)
    put(block.conv.weight, np.zeros((4, IN, 3, 3)))
    fit = fit_ghost_modules(block, [block.site()], [images()], 2, 3)["conv"]
    assert len(fit.intrinsic) == 2
    assert fit.residuals.tolist() == [0.0] * 4


def test_residuals_fall_with_the_cheap_kernel_size():
    block = Block(8, norm=True, bias=False, act=True)
    put(block.conv.weight, np.random.default_rng(2).normal(size=(8, IN, 3, 3)))
    sums = [
        fit_ghost_modules(block, [block.site()], [images()], 2, size)["conv"].residuals.sum()
        for size in (1, 3, 5)
    ]
    assert sums[0] > sums[1] > sums[2] > 0, sums


def test_the_seed_determines_the_positions(monkeypatch):
    monkeypatch.setattr("mindcv_ghost.surgery.fit._POSITIONS", 200)
    block = Block(6, norm=True, bias=False, act=True)

    def kernels(seed: int) -> np.ndarray:
        fits = fit_ghost_modules(block, [block.site()], [images()], 2, 3, seed=seed)
        return fits["conv"].cheap_weight

    np.testing.assert_array_equal(kernels(3), kernels(3))
    assert not np.array_equal(kernels(3), kernels(4))


def test_images_of_different_sizes_and_infinite_maps_are_refused():
    block = Block(4, norm=False, bias=False, act=False)
    with pytest.raises(ValueError, match="must have the same size"):
        fit_ghost_modules(block, [block.site()], [images(side=9), images(side=8)], 2, 3)
    with pytest.raises(ValueError, match="maps of conv contain NaN or infinity"):
        fit_ghost_modules(block, [block.site()], [images() * np.float32(np.inf)], 2, 3)


class Deep(nn.Cell):
    """Six convolutions with BN and ReLU, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        cells, channels = [], IN
        for _ in range(6):
            cells += [nn.Conv2d(channels, 16, 3, pad_mode="pad", padding=1), nn.BatchNorm2d(16)]
            cells += [nn.ReLU()]
            channels = 16
        self.features = nn.SequentialCell(cells)
        self.classifier = nn.Dense(16, 5)

    def construct(self, x):
        return self.classifier(self.features(x).mean(axis=(2, 3)))


def deep() -> Deep:
    """Make the same network every time, with running statistics that match its weights."""
    rng = np.random.default_rng(7)
    network = Deep()
    for parameter in network.trainable_params():
        if parameter.name.endswith("weight"):
            fan_in = np.prod(parameter.shape[1:])
            put(parameter, rng.normal(size=parameter.shape) * np.sqrt(2 / fan_in))
        elif parameter.name.endswith("bias"):  # random in MindSpore
            put(parameter, 0.1 * rng.normal(size=parameter.shape))
    recompute_running_statistics(network, [images(40)])
    return network


def test_a_fitted_network_is_closer_to_the_original_than_a_random_one():
    ms.set_seed(0)  # for the random weights
    x, unseen = images(40), images(20, seed=9)
    original = outputs(deep(), unseen)
    distance = {}
    for init in ("random", "fit"):
        network, _ = ghostify(deep(), init=init, calibration=[x], image_size=9)
        distance[init] = np.square(outputs(network, unseen) - original).mean()
    assert distance["fit"] < 0.05 * distance["random"]


def test_fitting_does_not_change_the_network():
    network = deep()
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    cells = dict(network.cells_and_names())
    site = SimpleNamespace(
        name="features.3", conv=cells["features.3"], norm=cells["features.4"], act=None
    )
    fit_ghost_modules(network, [site], [images()], 2, 3)
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


def test_recomputed_statistics_are_those_of_all_images():
    network, x = deep(), images(24, seed=3)
    outputs(network, x)  # kernels that have run before must use the new values, too
    recompute_running_statistics(network, [x[:8], x[8:]])
    cells = dict(network.cells_and_names())
    maps = cells["features.0"](Tensor(x)).asnumpy()
    norm = cells["features.1"]
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), maps.mean(axis=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), maps.var(axis=(0, 2, 3)), rtol=1e-4)
    recompute_running_statistics(network, [x])
    evaluated = outputs(network, x)
    np.testing.assert_allclose(evaluated, outputs(network, x, training=True), atol=1e-4)


def test_bn_that_never_uses_batch_statistics_is_not_changed():
    network = nn.SequentialCell(nn.BatchNorm2d(IN, use_batch_statistics=False))
    recompute_running_statistics(network, [images()])
    assert network[0].moving_mean.asnumpy().tolist() == [0.0] * IN


@pytest.mark.parametrize(
    "sizes",
    [
        {"kernel_size": 3, "pad_mode": "pad", "padding": 1, "stride": 2},
        {"kernel_size": 3, "pad_mode": "pad", "padding": (0, 1, 2, 3), "dilation": 2},
        {"kernel_size": (3, 5), "pad_mode": "same", "stride": 2},
        {"kernel_size": 4, "pad_mode": "same", "stride": 3},
        {"kernel_size": 2, "pad_mode": "valid", "stride": (1, 2)},
        {"kernel_size": 1, "pad_mode": "same"},
    ],
    ids=str,
)
def test_patches_reproduce_the_convolution_and_its_filters_are_recovered(sizes):
    conv, x = nn.Conv2d(IN, 4, **sizes), images(20, side=10)
    out = conv(Tensor(x)).asnumpy()
    positions = sample_positions(*out[:, 0].shape, 300, np.random.default_rng(0))
    patches = input_patches(conv, x, positions)
    weight = conv.weight.asnumpy()
    np.testing.assert_allclose(
        patches @ weight.reshape(4, -1).T, values_at(out, positions).T, atol=1e-5
    )
    change, constants = correct_filters(conv, x, values_at(out, positions) + 2, positions, True)
    error = patches @ (change - weight).reshape(4, -1).T + constants - 2
    assert np.square(error).mean() < 0.2 * out.var()


@pytest.mark.parametrize("count, ratio", [(6, 2), (7, 2), (6, 3), (7, 3), (8, 4)])
def test_chosen_sources_cost_at_most_a_tenth_more_than_the_best(count, ratio):
    rng = np.random.default_rng(0)
    ours = least = 0.0
    for _ in range(10):
        cost = rng.exponential(size=(count, count))
        np.fill_diagonal(cost, 0.1 * rng.random(count))
        source = choose_sources(cost, ratio)
        numbers = np.bincount(source, minlength=count)
        intrinsic = np.flatnonzero(source == np.arange(count))
        assert len(intrinsic) == -(-count // ratio)
        assert numbers.max() <= ratio and numbers[intrinsic].sum() == count
        ours += cost[source, np.arange(count)].sum()
        least += cheapest(cost, ratio)
    assert least * (1 - 1e-9) <= ours <= 1.1 * least


def cheapest(cost: np.ndarray, ratio: int) -> float:
    """Find the least cost by trying all choices."""
    count = len(cost)
    best = np.inf
    for intrinsic in itertools.combinations(range(count), -(-count // ratio)):
        others = [number for number in range(count) if number not in intrinsic]
        own = cost[list(intrinsic), list(intrinsic)].sum()
        for sources in itertools.product(intrinsic, repeat=len(others)):
            if max(map(sources.count, sources), default=0) < ratio:
                best = min(best, own + cost[list(sources), others].sum())
    return best


def test_all_pairs_of_copies_among_many_maps_are_found():
    rng = np.random.default_rng(0)
    pairs = rng.permutation(400).reshape(200, 2)
    cost = 1.0 + rng.random((400, 400))
    cost[pairs[:, 0], pairs[:, 1]] = 0.01
    np.fill_diagonal(cost, 0.0)
    source = choose_sources(cost, 2)
    np.testing.assert_array_equal(source[pairs[:, 1]], pairs[:, 0])
