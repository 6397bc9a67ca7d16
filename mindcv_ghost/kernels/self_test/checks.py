"""One check for each operator: results and gradients against the formulas."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mindcv_ghost.kernels.self_test import reference
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.kernels.self_test.comparison import check_close, check_gradients
from mindcv_ghost.kernels.self_test.reference import EPSILON

__all__ = ["check_library"]

MOMENTUM = 0.1
"""Weight of the new batch in running statistics."""

# images, channels in and out, height, width, kernel, stride: pointwise, 3x3 directly and by
# Winograd's algorithm (it needs more channels), strided, few channels, steps beyond the kernel, few
# of Winograd's tiles, more inputs of an output than are unfolded at once
_CONVOLUTIONS = (
    (3, 8, 12, 9, 7, 1, 1),
    (9, 6, 10, 4, 4, 3, 1),
    (2, 20, 34, 18, 11, 3, 1),
    (3, 24, 18, 7, 10, 1, 2),
    (2, 3, 8, 11, 9, 7, 2),
    (3, 5, 7, 5, 6, 3, 4),
    (17, 18, 70, 4, 3, 3, 1),
    (3, 70, 13, 7, 6, 3, 2),
)
# images, channels, maps out of each, height, width, kernel, stride
_DEPTHWISE = (
    (3, 4, 1, 9, 7, (3, 3), 1),
    (5, 2, 2, 8, 9, (5, 5), 2),
    (2, 3, 1, 13, 14, (1, 5), 1),
    (2, 3, 1, 6, 11, (5, 1), 2),
    (70, 2, 1, 7, 7, (3, 3), 2),
    (1, 2, 3, 40, 70, (7, 7), 1),
)


def check_library(library: ctypes.CDLL) -> None:
    """Compare every operator with its formula.

    Args:
        library: as ``ctypes`` loaded it.

    Raises:
        AssertionError: if an operator is off; the message names it.
        ValueError: if an operator refuses its arguments.
    """
    random = np.random.default_rng(0)
    for tail in ((3, 4, 4, 9, 7, 3, True), (2, 3, 6, 8, 8, 5, False), (5, 2, 2, 4, 4, 1, True)):
        _check_ghost_tail(library, random, *tail)
    _check_stem_tail(library, random)
    for convolution in _CONVOLUTIONS:
        _check_convolution(library, random, *convolution)
    for depthwise in _DEPTHWISE:
        _check_depthwise(library, random, *depthwise)
    for size in ((3, 4, 9, 7), (70, 2, 9, 9), (2, 3, 70, 90), (5, 3, 1, 1)):
        _check_batch_norm(library, random, size)
    for size in ((3, 4, 9, 7), (1, 2, 80, 90)):
        _check_mean(library, random, size)
    for size, small in (((3, 4, 9, 7), (1, 1)), ((2, 3, 9, 8), (4, 4)), ((2, 3, 7, 14), (3, 7))):
        _check_rescale(library, random, size, small)
    _check_all_finite(library, random)
    _check_momentum(library, random)


def _check_ghost_tail(library, random, n, intrinsic, ghosts, height, width, kernel, relu) -> None:
    out_channels = intrinsic + ghosts - (1 if ghosts > intrinsic else 0)
    u = random.normal(size=(n, intrinsic, height, width))
    # A BN undoes a 1x1 weight, but for its epsilon: a large one's gradient is rounding alone.
    weight = random.normal(size=(ghosts, 1, kernel, kernel)) * (0.05 if kernel == 1 else 1)
    norms = [_norm(random, channels) for channels in (intrinsic, ghosts)]
    shortcut = random.normal(size=(n, out_channels, height, width))
    for extra in ([], [shortcut]):
        name = "ghost_tail_add" if extra else "ghost_tail"
        relu = relu and not extra  # what a shortcut is added to has no ReLU of its own
        settings = [float(relu), EPSILON, EPSILON]
        variables = [u, *norms[0][:2], weight, *norms[1][:2]]

        def formula(u, gamma1, beta1, weight, gamma2, beta2, shortcut=None, relu=relu):
            first, second = (gamma1, beta1), (gamma2, beta2)
            return reference.ghost_tail(u, first, weight, second, out_channels, relu, shortcut)

        inputs: list[ArrayLike] = [settings, *variables, *extra]
        y, saved = call(library, name, inputs, [shortcut.shape, (2 * (intrinsic + ghosts),)])
        check_close(name, y, formula(*variables, *extra))
        x = reference.batch_norm(u, *norms[0][:2])
        x = np.maximum(x, 0) if relu else x
        normalised = (u, reference.convolution(x, weight, groups=intrinsic))
        updated = _update(library, u, saved, *norms[0][2:], *norms[1][2:])
        for index, (norm, values) in enumerate(zip(norms, normalised)):
            _check_updated(name, updated[2 * index : 2 * index + 2], norm[2:], values)

        dy = random.normal(size=y.shape)
        inputs = [settings, *variables, saved, dy, *([y] if extra else [])]
        gradients = call(library, name + "_backward", inputs, [v.shape for v in variables + extra])
        check_gradients(name + "_backward", random, formula, variables + extra, gradients, dy)

        name += "_evaluate"
        inputs = [settings, u, *norms[0], weight, *norms[1], *extra]
        (y,) = call(library, name, inputs, [shortcut.shape])
        added = extra[0] if extra else None
        expected = reference.ghost_tail(u, norms[0], weight, norms[1], out_channels, relu, added)
        check_close(name, y, expected)


def _check_stem_tail(library, random) -> None:
    u, norm = random.normal(size=(3, 4, 9, 12)), _norm(random, 4)
    variables = [u, *norm[:2]]
    y, saved = call(library, "ghost_stem", [[EPSILON], *variables], [(3, 4, 5, 6), (8,)])
    check_close("ghost_stem", y, reference.stem_tail(*variables))
    _check_updated("ghost_stem", _update(library, u, saved, *norm[2:]), norm[2:], u)
    dy = random.normal(size=y.shape)
    inputs = [[EPSILON], *variables, saved, dy]
    gradients = call(library, "ghost_stem_backward", inputs, [v.shape for v in variables])
    check_gradients("ghost_stem_backward", random, reference.stem_tail, variables, gradients, dy)
    inputs = [[EPSILON], u, *norm]
    (y,) = call(library, "ghost_stem_evaluate", inputs, [(3, 4, 5, 6)])
    check_close("ghost_stem_evaluate", y, reference.stem_tail(u, *norm))


def _check_convolution(library, random, n, inputs, outputs, height, width, kernel, stride) -> None:
    x = random.normal(size=(n, inputs, height, width))
    weight = random.normal(size=(outputs, inputs, kernel, kernel))
    expected = reference.convolution(x, weight, stride)
    dy = random.normal(size=expected.shape)
    (y,) = call(library, "ghost_conv", [[stride], x, weight], [expected.shape])
    check_close("ghost_conv", y, expected)
    (dx,) = call(library, "ghost_conv_backward_input", [[stride], dy, weight, x], [x.shape])
    step = random.normal(size=x.shape)
    change = (reference.convolution(step, weight, stride) * dy).sum()
    check_close("ghost_conv_backward_input", (dx * step).sum(), change)
    other = random.normal(size=x.shape).astype(np.float32)
    inputs = [[stride], dy, weight, other]
    (total,) = call(library, "ghost_conv_backward_input_add", inputs, [x.shape])
    check_close("ghost_conv_backward_input_add", total, dx + other)
    (dw,) = call(library, "ghost_conv_backward_weight", [[stride], x, dy, weight], [weight.shape])
    step = random.normal(size=weight.shape)
    change = (reference.convolution(x, step, stride) * dy).sum()
    check_close("ghost_conv_backward_weight", (dw * step).sum(), change)


def _check_depthwise(library, random, n, channels, ratio, height, width, kernel, stride) -> None:
    x = random.normal(size=(n, channels, height, width))
    weight = random.normal(size=(channels * ratio, 1, *kernel))

    def formula(x, weight):
        return reference.convolution(x, weight, stride, groups=channels)

    expected = formula(x, weight)
    (y,) = call(library, "ghost_depthwise", [[stride], x, weight], [expected.shape])
    check_close("ghost_depthwise", y, expected)
    dy = random.normal(size=expected.shape)
    name, shapes = "ghost_depthwise_backward", [x.shape, weight.shape]
    gradients = call(library, name, [[stride], x, weight, dy], shapes)
    check_gradients(name, random, formula, [x, weight], gradients, dy)


def _check_batch_norm(library, random, size) -> None:
    # A mean that is large against the deviation shows sums that cancel.
    x, norm = random.normal(size=size) + 8, _norm(random, size[1])
    settings = [EPSILON]
    y, saved = call(library, "ghost_batch_norm", [settings, x, *norm[:2]], [size, (2 * size[1],)])
    x = x.astype(np.float32).astype(np.float64)
    check_close("ghost_batch_norm", y, reference.batch_norm(x, *norm[:2]))
    updated = _update(library, x, saved, *norm[2:])
    _check_updated("ghost_batch_norm", updated, norm[2:], x)
    dy, variables = random.normal(size=size), [x, *norm[:2]]
    inputs = [settings, *variables, saved, dy]
    name = "ghost_batch_norm_backward"
    gradients = call(library, name, inputs, [v.shape for v in variables])
    check_gradients(name, random, reference.batch_norm, variables, gradients, dy)
    (y,) = call(library, "ghost_batch_norm_evaluate", [settings, x, *norm], [size])
    check_close("ghost_batch_norm_evaluate", y, reference.batch_norm(x, *norm))


def _check_mean(library, random, size) -> None:
    x, dy = random.normal(size=size) + 1, random.normal(size=size[:2])
    (y,) = call(library, "ghost_mean", [x], [size[:2]])
    check_close("ghost_mean", y, x.mean((2, 3)))
    (dx,) = call(library, "ghost_mean_backward", [dy, x], [size])
    share = dy[:, :, None, None] / (size[2] * size[3])
    check_close("ghost_mean_backward", dx, np.broadcast_to(share, size))


def _check_rescale(library, random, size, small) -> None:
    x, weight = random.normal(size=size), random.normal(size=(*size[:2], *small))
    dy = random.normal(size=size)

    def formula(x, weight):
        return x * reference.enlarged(weight, *size[2:])

    (y,) = call(library, "ghost_rescale", [x, weight], [size])
    check_close("ghost_rescale", y, formula(x, weight))
    name, shapes = "ghost_rescale_backward", [size, weight.shape]
    gradients = call(library, name, [x, weight, dy], shapes)
    check_gradients(name, random, formula, [x, weight], gradients, dy)


def _check_all_finite(library, random) -> None:
    tensors = [random.normal(size=size) for size in ((3,), (70_000,), (2, 5))]
    for where, value in ((None, 0.0), (0, np.nan), (1, np.inf), (2, -np.inf)):
        tried = [tensor.copy() for tensor in tensors]
        if where is not None:
            tried[where].flat[-1] = value
        (answer,) = call(library, "ghost_all_finite", tried, [(1,)])
        if answer[0] != (where is None):
            raise AssertionError(f"ghost_all_finite says {answer[0]} of tensors with {value}")


def _check_momentum(library, random) -> None:
    sizes = ((3,), (70_000,), (2, 5))
    gradients, weights, moments = ([random.normal(size=s) for s in sizes] for _ in range(3))
    rates, which, decays = [0.5, 0.25], [0, 1, 0], [0.0, 0.5, 0.25]
    factor, momentum = 0.125, 0.875
    settings: list[ArrayLike] = [[*which, *decays], [factor], [momentum], rates]
    inputs: list[ArrayLike] = [*settings, *gradients, *weights, *moments]
    _, *updated = call(library, "ghost_momentum", inputs, [(1,)], written=6)
    for i, (gradient, weight, moment) in enumerate(zip(gradients, weights, moments)):
        moment = momentum * moment + factor * gradient + decays[i] * weight
        check_close("ghost_momentum", updated[3 + i], moment)
        check_close("ghost_momentum", updated[i], weight - rates[which[i]] * moment)


def _norm(random: np.random.Generator, channels: int) -> list[np.ndarray]:
    """Gamma, beta, running mean and running variance."""
    return [
        random.uniform(0.5, 1.5, channels),
        *(random.normal(size=channels) for _ in range(2)),
        random.uniform(0.5, 1.5, channels),
    ]


def _update(
    library: ctypes.CDLL, x: np.ndarray, saved: np.ndarray, *running: np.ndarray
) -> list[np.ndarray]:
    """Running means and variances after an update with what a forward operator saved of x."""
    inputs: list[ArrayLike] = [[MOMENTUM] * (len(running) // 2), x, saved, *running]
    name = "ghost_update_running_statistics"
    return call(library, name, inputs, [(1,)], written=len(running))[1:]


def _check_updated(
    what: str, got: Sequence[np.ndarray], running: Sequence[np.ndarray], x: np.ndarray
) -> None:
    for new, expected in zip(got, reference.updated_statistics(running, x, MOMENTUM)):
        check_close(f"{what}'s running statistics", new, expected)
