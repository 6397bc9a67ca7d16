"""The operators of any network's layers against plain formulas; run by :mod:`self_test`."""

from __future__ import annotations

import ctypes

import numpy as np

from mindcv_ghost.kernels import self_test
from mindcv_ghost.kernels.calls import call

__all__ = ["check_layers", "enlarged"]


def enlarged(weight: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps enlarged to height and width by repetition ("nearest")."""
    for axis, wide in ((2, height), (3, width)):
        narrow = weight.shape[axis]
        weight = weight.take(np.arange(wide) * narrow // wide, axis)
    return weight


def check_layers(library: ctypes.CDLL) -> None:
    """Compare every operator with its formula.

    Raises:
        AssertionError: if one is off; the message names it.
    """
    random = np.random.default_rng(0)
    for shape in (
        (3, 4, 1, 9, 7, (3, 3), 1),
        (5, 2, 2, 8, 9, (5, 5), 2),
        (2, 3, 1, 13, 14, (1, 5), 1),
        (2, 3, 1, 6, 11, (5, 1), 2),
        (70, 2, 1, 7, 7, (3, 3), 2),
        (1, 2, 3, 40, 70, (7, 7), 1),
    ):
        _check_depthwise(library, random, *shape)
    for size in ((3, 4, 9, 7), (70, 2, 9, 9), (2, 3, 70, 90), (5, 3, 1, 1)):
        _check_norm(library, random, size)
    for size in ((3, 4, 9, 7), (1, 2, 80, 90)):
        _check_mean(library, random, size)
    for size, small in (((3, 4, 9, 7), (1, 1)), ((2, 3, 9, 8), (4, 4)), ((2, 3, 7, 14), (3, 7))):
        _check_weight(library, random, size, small)
    _check_all_finite(library, random)
    _check_momentum(library, random)


def _check_depthwise(library, random, n, channels, ratio, height, width, kernel, stride) -> None:
    x = random.normal(size=(n, channels, height, width))
    weight = random.normal(size=(channels * ratio, 1, *kernel))

    def formula(x, weight):
        return self_test.convolution(x, weight, stride, groups=channels)

    expected = formula(x, weight)
    (y,) = call(library, "ghost_depthwise", [[stride], x, weight], [expected.shape])
    self_test._compare("ghost_depthwise", y, expected)
    dy = random.normal(size=expected.shape)
    name, shapes = "ghost_depthwise_backward", [x.shape, weight.shape]
    gradients = call(library, name, [[stride], x, weight, dy], shapes)
    self_test._check_gradients(name, random, formula, [x, weight], gradients, dy)


def _check_norm(library, random, size) -> None:
    # A mean that is large against the deviation shows sums that cancel.
    x, norm = random.normal(size=size) + 8, self_test._norm(random, size[1])
    settings = [self_test.EPSILON]
    y, saved = call(library, "ghost_norm", [settings, x, *norm[:2]], [size, (2 * size[1],)])
    x = x.astype(np.float32).astype(np.float64)
    self_test._compare("ghost_norm", y, self_test._batch_norm(x, *norm[:2]))
    moved = self_test._moved(library, x, saved, *norm[2:])
    self_test._check_moved("ghost_norm", moved, norm[2:], x)
    dy, variables = random.normal(size=size), [x, *norm[:2]]
    inputs = [settings, *variables, saved, dy]
    name = "ghost_norm_backward"
    gradients = call(library, name, inputs, [v.shape for v in variables])
    self_test._check_gradients(name, random, self_test._batch_norm, variables, gradients, dy)
    (y,) = call(library, "ghost_norm_evaluate", [settings, x, *norm], [size])
    self_test._compare("ghost_norm_evaluate", y, self_test._batch_norm(x, *norm))


def _check_mean(library, random, size) -> None:
    x, dy = random.normal(size=size) + 1, random.normal(size=size[:2])
    (y,) = call(library, "ghost_mean", [x], [size[:2]])
    self_test._compare("ghost_mean", y, x.mean((2, 3)))
    (dx,) = call(library, "ghost_mean_backward", [dy, x], [size])
    share = dy[:, :, None, None] / (size[2] * size[3])
    self_test._compare("ghost_mean_backward", dx, np.broadcast_to(share, size))


def _check_weight(library, random, size, small) -> None:
    x, weight = random.normal(size=size), random.normal(size=(*size[:2], *small))
    dy = random.normal(size=size)

    def formula(x, weight):
        return x * enlarged(weight, *size[2:])

    (y,) = call(library, "ghost_weight", [x, weight], [size])
    self_test._compare("ghost_weight", y, formula(x, weight))
    name, shapes = "ghost_weight_backward", [size, weight.shape]
    gradients = call(library, name, [x, weight, dy], shapes)
    self_test._check_gradients(name, random, formula, [x, weight], gradients, dy)


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
    inputs = [[*which, *decays], [factor], [momentum], rates, *gradients, *weights, *moments]
    _, *moved = call(library, "ghost_momentum", inputs, [(1,)], written=6)
    for i, (gradient, weight, moment) in enumerate(zip(gradients, weights, moments)):
        moment = momentum * moment + factor * gradient + decays[i] * weight
        self_test._compare("ghost_momentum", moved[3 + i], moment)
        self_test._compare("ghost_momentum", moved[i], weight - rates[which[i]] * moment)
