"""Single operators: formulas, numbers of threads, NaN, wrong arguments."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mindcv_ghost.kernels.self_test import checks, reference
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.kernels.self_test.checks import check_library
from mindcv_ghost.kernels.self_test.reference import EPSILON, convolution

TAIL_SETTINGS = [1, EPSILON, EPSILON]
RUNNING = (4, 5, 9, 10)  # among a tail's inputs


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tail_inputs(images: int = 3, side: int = 6) -> list:
    """Inputs of the tail in evaluation, with running statistics."""
    norms = [[values(n, seed=i) for i in range(3)] + [values(n) ** 2 + 0.5] for n in (4, 8)]
    u, weight = values(images, 4, side, side), values(8, 1, 3, 3)
    return [TAIL_SETTINGS, u, *norms[0], weight, *norms[1]]


def training_inputs() -> list:
    """Inputs of the tail in training, without running statistics."""
    return [each for i, each in enumerate(tail_inputs()) if i not in RUNNING]


def run_tail(handle, inputs: list) -> list[np.ndarray]:
    """All that the tail and its gradient compute."""
    images, _, side, _ = inputs[1].shape
    y_shape = (images, 11, side, side)
    _, *variables = [each for i, each in enumerate(inputs) if i not in RUNNING]
    y, saved = call(handle, "ghost_tail", [TAIL_SETTINGS, *variables], [y_shape, (24,)])
    running = [[0.1, 0.1], inputs[1], saved, *(inputs[i] for i in RUNNING)]
    _, *updated = call(handle, "ghost_update_running_statistics", running, [(1,)], written=4)
    back = [TAIL_SETTINGS, *variables, saved, values(*y_shape, seed=5)]
    return [y, saved, *updated, *call(handle, "ghost_tail_backward", back, shapes(variables))]


def shapes(arrays: list) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_operator_computes_its_formula_on_any_number_of_threads(handle, threads):
    handle.ghost_set_threads(ctypes.c_int(threads))
    check_library(handle)


@pytest.mark.parametrize(
    ("module", "constant", "formula"),
    [(reference, "EPSILON", "batch_norm"), (checks, "MOMENTUM", "_check_updated")],
    ids=["epsilon", "momentum"],
)
def test_self_test_notices_a_library_that_computes_something_else(
    handle, monkeypatch, module, constant, formula
):
    original, value = getattr(module, formula), getattr(module, constant)

    def other(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(module, constant, 2 * value)
            return original(*arguments)

    monkeypatch.setattr(module, formula, other)
    with pytest.raises(AssertionError, match="ghost_tail"):
        check_library(handle)


def test_tail_and_its_gradient_are_bit_equal_on_any_number_of_threads_and_each_time(handle):
    results = []
    for threads in (1, 2, 3, 2):
        handle.ghost_set_threads(ctypes.c_int(threads))
        results.append(run_tail(handle, tail_inputs()))
    for other in results[1:]:
        for one, two in zip(results[0], other):
            assert one.tobytes() == two.tobytes()


def run_layers(handle) -> list[np.ndarray]:
    """All that a depthwise convolution and a norm, and their gradients, compute."""
    x, weight, dy = values(5, 4, 14, 13), values(8, 1, 3, 5), values(5, 8, 7, 7)
    norm = [values(4, seed=i) for i in range(2)]
    found = call(handle, "ghost_depthwise", [[2], x, weight], [dy.shape])
    found += call(handle, "ghost_depthwise_backward", [[2], x, weight, dy], shapes([x, weight]))
    settings = [1, EPSILON]
    found += call(handle, "ghost_batch_norm", [settings, x, *norm], [x.shape, (8,)])
    back = [settings, x, *norm, found[-1], values(*x.shape, seed=7)]
    return found + call(handle, "ghost_batch_norm_backward", back, [x.shape, (4,), (4,)])


def test_layers_and_their_gradients_are_bit_equal_on_any_number_of_threads(handle):
    results = []
    for threads in (1, 2, 3, 2):
        handle.ghost_set_threads(ctypes.c_int(threads))
        results.append(run_layers(handle))
    for other in results[1:]:
        assert [array.tobytes() for array in other] == [array.tobytes() for array in results[0]]


def test_a_nan_stays_in_its_channel_of_a_depthwise_convolution_and_a_norm(handle):
    x, weight = values(3, 4, 6, 6), values(4, 1, 3, 3)
    x[0, 1, 2, 2] = np.nan
    (y,) = call(handle, "ghost_depthwise", [[1], x, weight], [x.shape])
    assert np.isnan(y).sum() == np.isnan(y[0, 1, 1:4, 1:4]).sum() == 9
    (y,) = call(handle, "ghost_depthwise", [[2], x, weight], [(3, 4, 3, 3)])
    assert np.isnan(y).sum() == np.isnan(y[0, 1, 1, 1]).sum() == 1
    norm = [np.ones(4, np.float32)] * 2
    y, _ = call(handle, "ghost_batch_norm", [[0, EPSILON], x, *norm], [x.shape, (8,)])
    assert np.isnan(y[:, 1]).all() and not np.isnan(np.delete(y, 1, axis=1)).any()


def test_statistics_keep_their_digits_where_means_are_large(handle):
    x = 1000 + values(70, 2, 9, 9)
    x[0] = 0  # were it the measure of all, sums of squares would cancel
    one = np.ones(2, np.float32)
    _, saved = call(handle, "ghost_batch_norm", [[0, EPSILON], x, one, one], [x.shape, (4,)])
    exact = x.astype(np.float64)
    np.testing.assert_allclose(saved[:2], exact.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(saved[2:], exact.var((0, 2, 3)), rtol=1e-5)


def test_gradient_of_a_dense_weight_is_bit_equal_each_time_on_one_number_of_threads(handle):
    x, dy, weight = values(8, 16, 14, 14), values(8, 24, 14, 14), values(24, 16, 3, 3)
    name = "ghost_conv_backward_weight"
    runs = [call(handle, name, [[1], x, dy, weight], [weight.shape])[0] for _ in range(10)]
    assert {run.tobytes() for run in runs} == {runs[0].tobytes()}


def test_a_nan_makes_its_whole_channel_nan_in_training_and_no_other(handle):
    inputs = tail_inputs()
    inputs[1][0, 1, 2, 2] = np.nan
    y, saved, mean, *_, du, _, _, dweight, _, _ = run_tail(handle, inputs)
    broken = [1, 4 + 2, 4 + 3]  # the intrinsic map, and its two ghosts
    assert np.isnan(y[:, broken]).all()
    assert not np.isnan(np.delete(y, broken, axis=1)).any()
    assert np.isnan(mean).tolist() == [False, True, False, False]
    assert np.isnan(du[:, 1]).all() and not np.isnan(np.delete(du, 1, axis=1)).any()
    assert np.isnan(dweight[2:4]).all() and not np.isnan(np.delete(dweight, [2, 3], axis=0)).any()


def test_a_nan_reaches_all_that_depends_on_it_in_evaluation(handle):
    inputs = tail_inputs()
    inputs[1][0, 1, 2, 2] = np.nan
    (y,) = call(handle, "ghost_tail_evaluate", inputs, [(3, 11, 6, 6)])
    assert np.isnan(y).sum() == 1 + 2 * 9
    stem = [[EPSILON], inputs[1], *inputs[2:6]]
    (y,) = call(handle, "ghost_stem_evaluate", stem, [(3, 4, 3, 3)])
    assert np.isnan(y).sum() == 1


def test_stem_gives_the_gradient_of_equal_values_to_the_first(handle):
    u = np.ones((2, 1, 4, 4), np.float32)
    u[1] = 2
    one = np.ones(1, np.float32)
    y, saved = call(handle, "ghost_stem", [[0], u, one, 0 * one], [(2, 1, 2, 2), (2,)])
    np.testing.assert_allclose(y[1], 1, atol=1e-6)
    dy = np.zeros_like(y)
    dy[1, 0, 1, 1] = 1
    _, dgamma, dbeta = call(
        handle, "ghost_stem_backward", [[0], u, one, 0 * one, saved, dy], [u.shape, (1,), (1,)]
    )
    np.testing.assert_allclose([dgamma[0], dbeta[0]], 1, atol=1e-6)
    # BN's gradient is zero for a constant shift, so sums were compared above. Here values differ,
    # and the gradient must be largest at the first maximum of the window.
    ramp = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) // 8
    y, saved = call(handle, "ghost_stem", [[0], ramp, one, one], [(1, 1, 2, 2), (2,)])
    dy = np.zeros_like(y)
    dy[0, 0, 1, 0] = 1
    du, *_ = call(
        handle,
        "ghost_stem_backward",
        [[0], ramp, one, one, saved, dy],
        [ramp.shape, (1,), (1,)],
    )
    assert np.unravel_index(du[0, 0].argmax(), (4, 4)) == (2, 0)


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs"),
    [
        ("ghost_conv", [[1], values(1, 2, 4, 4), values(3, 2, 3, 3)], [(1, 3, 4, 5)]),
        ("ghost_conv", [[1], values(1, 2, 4, 4), values(3, 2, 2, 2)], [(1, 3, 4, 4)]),
        ("ghost_conv", [[0], values(1, 2, 4, 4), values(3, 2, 3, 3)], [(1, 3, 4, 4)]),
        ("ghost_conv", [[1], values(1, 2, 4, 4)], [(1, 3, 4, 4)]),
        ("ghost_depthwise", [[1], values(1, 2, 4, 4), values(3, 1, 3, 3)], [(1, 3, 4, 4)]),
        ("ghost_depthwise", [[1], values(1, 2, 4, 4), values(2, 1, 2, 3)], [(1, 2, 4, 4)]),
        ("ghost_depthwise", [[3], values(1, 2, 4, 4), values(2, 1, 3, 3)], [(1, 2, 2, 2)]),
        ("ghost_depthwise", [[2], values(1, 2, 4, 4), values(2, 1, 3, 3)], [(1, 2, 4, 4)]),
        (
            "ghost_batch_norm_evaluate",
            [[0, 1], values(1, 2, 4, 4), *[values(3)] * 4],
            [(1, 2, 4, 4)],
        ),
        (
            "ghost_update_running_statistics",
            [[1], values(1, 2, 4, 4), values(4), values(2)],
            [(1,)],
        ),
        (
            "ghost_update_running_statistics",
            [[1], values(1, 2, 4, 4), values(4), values(2), values(3)],
            [(1,)],
        ),
        (
            "ghost_update_running_statistics",
            [[1], values(1, 2, 4, 4), values(5), values(2), values(2)],
            [(1,)],
        ),
        (
            "ghost_update_running_statistics",
            [[1, 1], values(1, 2, 4, 4), values(4), *[values(2)] * 4],
            [(1,)],
        ),
        ("ghost_mean", [values(1, 2, 4, 4)], [(1, 3)]),
        ("ghost_rescale", [values(1, 2, 4, 4), values(1, 2, 5, 4)], [(1, 2, 4, 4)]),
        ("ghost_rescale", [values(1, 2, 4, 4), values(1, 3, 2, 2)], [(1, 2, 4, 4)]),
        ("ghost_all_finite", [values(3)], [(2,)]),
        ("ghost_momentum", [[0, 0], [1], [1], [1], values(3), values(3), values(2)], [(1,)]),
        ("ghost_momentum", [[1, 0], [1], [1], [1], *[values(3)] * 3], [(1,)]),
        ("ghost_momentum", [[0, 0], [1], [1], [1], *[values(3)] * 2], [(1,)]),
        ("ghost_momentum", [[0, 0], [1], [1, 1], [1], *[values(3)] * 3], [(1,)]),
        ("ghost_tail_evaluate", tail_inputs()[:-1], [(3, 11, 6, 6)]),
        ("ghost_tail_evaluate", tail_inputs(), [(3, 13, 6, 6)]),
        ("ghost_tail_evaluate", [[3, EPSILON, EPSILON], *tail_inputs()[1:]], [(3, 11, 6, 6)]),
        *(
            ("ghost_tail_evaluate", [[*TAIL_SETTINGS, *order], *tail_inputs()[1:]], [(3, 11, 6, 6)])
            for order in (range(10), [*range(10), 9], [*range(10), 12], [*range(10), -1])
        ),
        ("ghost_tail", training_inputs(), [(3, 11, 6, 6), (23,)]),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(
    handle, operator, inputs, outputs
):
    with pytest.raises(ValueError, match=f"{operator} refuses"):
        call(handle, operator, inputs, outputs)


@pytest.mark.parametrize("of", [lambda x: x, lambda x: np.maximum(x, 0)], ids=["signed", "relu"])
@pytest.mark.parametrize(("images", "channels", "side"), [(8, 256, 8), (16, 384, 4), (4, 64, 14)])
def test_winograd_convolutions_stay_within_half_of_1e_5_of_exact_ones(
    handle, of, images, channels, side
):
    x, weight = of(values(images, channels, side, side)), values(32, channels, 3, 3, seed=1)
    dy = values(images, 32, side, side, seed=2)
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [padded[:, :, i : i + side, j : j + side] for i in range(3) for j in range(3)]
    dweight = np.stack([np.tensordot(dy.astype(float), s, ((0, 2, 3),) * 2) for s in shifts], -1)
    exact = {
        "ghost_conv": convolution(x.astype(float), weight.astype(float)),
        "ghost_conv_backward_input": convolution(dy.astype(float), turned.astype(float)),
        "ghost_conv_backward_weight": dweight.reshape(weight.shape),
    }
    inputs = {
        "ghost_conv": [x, weight],
        "ghost_conv_backward_input": [dy, weight, x],
        "ghost_conv_backward_weight": [x, dy, weight],
    }
    for name, expected in exact.items():
        (got,) = call(handle, name, [[1], *inputs[name]], [expected.shape])
        assert np.abs(got - expected).max() <= 5e-6 * np.abs(expected).max(), name


def test_winograd_convolutions_of_few_tiles_have_the_same_bits_on_any_number_of_threads(handle):
    # 130 maps are enough panels of weights for one or two threads, and too few for three.
    x, weight = values(20, 70, 4, 4), values(130, 70, 3, 3, seed=1)
    exact = convolution(x.astype(float), weight.astype(float))
    found = []
    for threads in (1, 2, 3):
        handle.ghost_set_threads(ctypes.c_int(threads))
        found += call(handle, "ghost_conv", [[1], x, weight], [exact.shape])
    assert np.abs(found[0] - exact).max() <= 5e-6 * np.abs(exact).max()
    assert {each.tobytes() for each in found} == {found[0].tobytes()}


def exact_gradient_of_input(dy: np.ndarray, weight: np.ndarray, shape: tuple, stride: int):
    """What a convolution's outputs give back to each input, tap by tap."""
    kernel, (_, _, rows, columns) = weight.shape[-1], dy.shape
    edge = kernel // 2
    padded = np.zeros((*shape[:2], shape[2] + 2 * edge, shape[3] + 2 * edge))
    for i in range(kernel):
        for j in range(kernel):
            seen = padded[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            seen += np.einsum("nohw,oi->nihw", dy, weight[:, :, i, j])
    return padded[:, :, edge : edge + shape[2], edge : edge + shape[3]]


@pytest.mark.parametrize("size", [(1, 7, 7), (5, 7, 7), (3, 14, 14), (4, 8, 16), (9, 3, 5)])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_columns_that_begin_and_end_within_rows_and_images_are_right_on_any_number_of_threads(
    handle, size, kernel, stride
):
    # 13 maps: too few for Winograd's algorithm. 70: several tiles, even of the smallest kernel.
    x, weight = values(size[0], 70, *size[1:]), values(13, 70, kernel, kernel, seed=1)
    y = convolution(x.astype(float), weight.astype(float), stride)
    dy, other = values(*y.shape, seed=2), values(*x.shape, seed=3)
    dx = exact_gradient_of_input(dy.astype(float), weight.astype(float), x.shape, stride)
    cases = [
        ("ghost_conv", [x, weight], y),
        ("ghost_conv_backward_input", [dy, weight, x], dx),
        ("ghost_conv_backward_input_add", [dy, weight, other], dx + other),
    ]
    for name, inputs, exact in cases:
        found = []
        for threads in (1, 2, 3):
            handle.ghost_set_threads(ctypes.c_int(threads))
            found += call(handle, name, [[stride], *inputs], [exact.shape])
        assert np.abs(found[0] - exact).max() <= 5e-6 * np.abs(exact).max(), name
        assert {each.tobytes() for each in found} == {found[0].tobytes()}, name


def test_results_are_the_same_wherever_in_a_cache_line_memory_begins(handle):
    small, large = (3, 20, 12, 12), (5, 70, 116, 116)  # the latter is written past the caches
    found = {}
    for size in (small, large):
        images, channels, side, _ = size
        x, weight = values(*size), values(channels, channels, 1, 1, seed=1) / channels
        half, norm = x[:, : channels // 2], [values(channels, seed=i) for i in (2, 3)]
        running = [values(channels, seed=4), values(channels) ** 2 + 0.5]
        first, second = ([each[: channels // 2] for each in (*norm, *running)] for _ in range(2))
        depthwise = values(channels // 2, 1, 3, 3)
        cases = [
            ("ghost_conv", [[1], x, weight], [size]),
            ("ghost_conv_backward_input", [[1], x, weight, x], [size]),
            ("ghost_batch_norm_evaluate", [[0, 1e-5], x, *norm, *running], [size]),
            (
                "ghost_tail_evaluate",
                [TAIL_SETTINGS, half, *first, depthwise, *second],
                [size],
            ),
        ]
        for name, inputs, outputs in cases:
            for offset in (0, 4, 7):
                for got in call(handle, name, inputs, outputs, offset=offset):
                    assert np.isfinite(got).all(), name
                    found.setdefault((name, size), set()).add(got.tobytes())
    assert {case: len(results) for case, results in found.items()} == dict.fromkeys(found, 1)
