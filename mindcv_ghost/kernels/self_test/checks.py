"""One check for each operator: results and gradients against the formulas."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mindcv_ghost.kernels.self_test import reference
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.kernels.self_test.channels_last import check_channels_last
from mindcv_ghost.kernels.self_test.comparison import check_close, check_gradients
from mindcv_ghost.kernels.self_test.reference import EPSILON

__all__ = ["check_library"]

MOMENTUM = 0.1
"""Weight of the new batch in running statistics."""

# images, channels in and out, height, width, kernel, stride: pointwise, 3x3 by Winograd's algorithm
# in one dimension (few channels) and in two, strided, few channels, steps beyond the kernel, few of
# Winograd's tiles, more inputs of an output than are unfolded at once
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
# 3x3 of few channels: rows longer than a vector, a height that the tiles don't fit, strided
_FEW_CHANNELS = ((2, 3, 9, 11, 19, 3, 1), (3, 6, 10, 5, 7, 3, 1), (9, 6, 10, 9, 8, 3, 2))
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
    for tail in (
        (3, 4, 4, 9, 7, 3, 1),
        (2, 3, 6, 8, 8, 5, 0),
        (5, 2, 2, 4, 4, 1, 1),
        (9, 3, 6, 5, 7, 1, 0),
        (3, 2, 2, 6, 5, 3, 2),
        (2, 2, 4, 9, 3, 1, 2),
        (70, 2, 4, 4, 5, 3, 2, True),
        (9, 3, 6, 5, 7, 1, 2, True),
        (2, 3, 3, 4, 5, 5, 1, True),
    ):
        _check_ghost_tail(library, random, *tail)
    _check_stem_tail(library, random)
    for convolution in _CONVOLUTIONS:
        _check_convolution(library, random, *convolution)
    for depthwise in _DEPTHWISE:
        _check_depthwise(library, random, *depthwise)
    for size in ((3, 4, 9, 7), (70, 2, 9, 9), (2, 3, 70, 90), (5, 3, 1, 1)):
        _check_batch_norm(library, random, size)
    for size, stride, channels in (((3, 4, 9, 7), 2, 7), ((2, 3, 4, 4), 1, 5)):
        _check_shortcut(library, random, size, stride, channels)
    for size in ((3, 4, 9, 7), (1, 2, 80, 90)):
        _check_mean(library, random, size)
    for size, small in (((3, 4, 9, 7), (1, 1)), ((2, 3, 9, 8), (4, 4)), ((2, 3, 7, 14), (3, 7))):
        _check_rescale(library, random, size, small)
    for smoothing, mean in ((0.0, True), (0.1, False)):
        _check_cross_entropy(library, random, 5, 7, smoothing, mean)
    # Few positions; large maps of one image, and of several; maps for Winograd's algorithm.
    _check_program(library, random, (3, 3, 42, 31), 16, 15)
    _check_program(library, random, (1, 1, 220, 240), 66, 8)
    _check_program(library, random, (12, 1, 60, 72), 66, 8)
    _check_program(library, random, (3, 2, 90, 100), 16, 16)
    _check_program(library, random, (1, 2, 55, 56), 16, 18)
    # Few channels and many rows; many channels, of several images; as many as a vector has lanes.
    check_channels_last(library, random, (1, 3, 99, 41), 6)
    check_channels_last(library, random, (3, 2, 14, 13), 150)
    for lanes in (4, 8, 16):
        check_channels_last(library, random, (2, 3, 13, 10), lanes)
    _check_all_finite(library, random)
    _check_momentum(library, random)
    for convolution in _FEW_CHANNELS:
        _check_convolution(library, random, *convolution)


def _check_ghost_tail(
    library, random, n, intrinsic, ghosts, height, width, kernel, relus, permuted=False
) -> None:
    out_channels = intrinsic + ghosts - (1 if ghosts > intrinsic else 0)
    u = random.normal(size=(n, intrinsic, height, width))
    # A BN undoes a 1x1 weight, but for its epsilon: a large one's gradient is rounding alone.
    weight = random.normal(size=(ghosts, 1, kernel, kernel)) * (0.05 if kernel == 1 else 1)
    norms = [_norm(random, channels) for channels in (intrinsic, ghosts)]
    shortcut = random.normal(size=(n, out_channels, height, width))
    for extra in ([], [shortcut]):
        name = "ghost_tail_add" if extra else "ghost_tail"
        relus = 0 if extra and relus == 1 else relus  # a shortcut is added before a ReLU
        order = random.permutation(intrinsic + ghosts)[:out_channels] if permuted else None
        settings = [relus, EPSILON, EPSILON, *([] if order is None else order)]
        variables = [u, *norms[0][:2], weight, *norms[1][:2]]

        def of(norms, u, weight, shortcut=None, relus=relus, order=order):
            return reference.ghost_tail(
                u, norms[0], weight, norms[1], out_channels, relus, shortcut, order
            )

        def formula(u, gamma1, beta1, weight, gamma2, beta2, shortcut=None, of=of):
            return of(((gamma1, beta1), (gamma2, beta2)), u, weight, shortcut)

        inputs: list[ArrayLike] = [settings, *variables, *extra]
        y, saved = call(library, name, inputs, [shortcut.shape, (2 * (intrinsic + ghosts),)])
        check_close(name, y, formula(*variables, *extra))
        x = reference.batch_norm(u, *norms[0][:2])
        x = np.maximum(x, 0) if relus else x
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
        check_close(name, y, of(norms, u, weight, *extra))


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
    _check_change("ghost_conv_backward_input", dx, step, change)
    other = random.normal(size=x.shape).astype(np.float32)
    inputs = [[stride], dy, weight, other]
    (total,) = call(library, "ghost_conv_backward_input_add", inputs, [x.shape])
    check_close("ghost_conv_backward_input_add", total, dx + other)
    (dw,) = call(library, "ghost_conv_backward_weight", [[stride], x, dy, weight], [weight.shape])
    step = random.normal(size=weight.shape)
    change = (reference.convolution(x, step, stride) * dy).sum()
    _check_change("ghost_conv_backward_weight", dw, step, change)


def _check_change(what, gradient, step, change) -> None:
    """Compare the change along a step with the exact one, which may be any share of the norm."""
    norm = np.sqrt((gradient.astype(float) ** 2).sum())
    check_close(what, np.asarray(1 + ((gradient * step).sum() - change) / norm), np.ones(()))


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
    x = x.astype(np.float32).astype(np.float64)
    shortcut, dy = random.normal(size=size), random.normal(size=size)
    for relu, add in ((False, False), (True, False), (False, True)):
        name, settings = "ghost_batch_norm" + ("_add" if add else ""), [float(relu), EPSILON]
        extra = [shortcut] if add else []
        variables = [x, *norm[:2], *extra]

        def formula(x, gamma, beta, shortcut=None, relu=relu):
            return reference.batch_norm_tail(x, (gamma, beta), relu, shortcut)

        y, saved = call(library, name, [settings, *variables], [size, (2 * size[1],)])
        check_close(name, y, formula(*variables))
        _check_updated(name, _update(library, x, saved, *norm[2:]), norm[2:], x)
        inputs = [settings, *variables[:3], saved, dy, *([y] if add else [])]
        gradients = call(library, name + "_backward", inputs, [v.shape for v in variables])
        check_gradients(name + "_backward", random, formula, variables, gradients, dy)
        (y,) = call(library, name + "_evaluate", [settings, x, *norm, *extra], [size])
        added = shortcut if add else None
        check_close(name + "_evaluate", y, reference.batch_norm_tail(x, norm, relu, added))


def _check_shortcut(library, random, size, stride, channels) -> None:
    x, before = random.normal(size=size), (channels - size[1]) // 2
    y = np.zeros((size[0], channels, -(-size[2] // stride), -(-size[3] // stride)))
    y[:, before : before + size[1]] = x[:, :, ::stride, ::stride]
    name, settings = "ghost_parameter_free_shortcut", [stride, before]
    (got,) = call(library, name, [settings, x], [y.shape])
    check_close(name, got, y)
    dy, dx = random.normal(size=y.shape), np.zeros(size)
    dx[:, :, ::stride, ::stride] = dy[:, before : before + size[1]]
    (got,) = call(library, name + "_backward", [settings, dy, x], [size])
    check_close(name + "_backward", got, dx)


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


def _check_cross_entropy(library, random, rows, classes, smoothing, mean) -> None:
    logits = 20 * random.normal(size=(rows, classes))
    labels = random.integers(0, classes, rows).astype(np.float64)
    labels[0] = -100  # ignored
    name, settings = "ghost_cross_entropy", [smoothing, float(mean)]

    def formula(logits):
        return reference.cross_entropy(logits, labels, smoothing, mean)

    (loss,) = call(library, name, [settings, logits, labels], [(1,)])
    check_close(name, loss, formula(logits))
    dloss = np.array([0.5])
    inputs = [settings, logits, labels, dloss]
    gradients = call(library, name + "_backward", inputs, [logits.shape])
    check_gradients(name + "_backward", random, formula, [logits], gradients, dloss)


_STEP = (
    *("kind", "input", "output", "first", "channels", "weight", "bias", "norm", "epsilon"),
    *("activation", "stride", "other", "outer", "cheap_weight", "cheap_norm", "cheap_epsilon"),
)
"""The numbers of a program's step; ``Step`` in ``kernels/program.py`` explains them."""


def _check_program(library, random, size, channels, odd) -> None:
    """A program with every kind of step, of maps with ``channels`` and ``odd`` channels."""
    inputs: list[np.ndarray] = []
    steps: list[float] = []

    def parameters(*arrays: np.ndarray) -> int:
        inputs.extend(arrays)
        return len(inputs) - len(arrays)

    def add(kind: int, read: int, written: int, out: int, **fields: float) -> None:
        fields = {"kind": kind, "input": read, "output": written, "channels": out, **fields}
        zeros = ("first", "epsilon", "activation", "outer", "cheap_epsilon")
        values = (
            fields.get(name, 0 if name in zeros else 1 if name == "stride" else -1)
            for name in _STEP
        )
        steps.extend(map(float, values))

    def convolution(kind: int, read: int, written: int, sides, **fields: float) -> list:
        weight, norm = random.normal(size=sides), _norm(random, sides[0])
        fields.update(weight=parameters(weight), norm=parameters(*norm), epsilon=EPSILON)
        if kind != 1:
            add(kind, read, written, sides[0], **fields)
            return [weight, norm]
        cheap, second = random.normal(size=(sides[0], 1, 3, 3)), _norm(random, sides[0])
        fields.update(cheap_weight=parameters(cheap), cheap_norm=parameters(*second))
        add(1, read, written, int(fields.pop("out")), cheap_epsilon=EPSILON, **fields)
        return [weight, norm, cheap, second]

    half, middle = (channels + 1) // 2, (odd + 1) // 2
    stem = convolution(2, 0, 1, (channels, size[1], 7, 7), stride=2, activation=1)
    first = convolution(1, 1, 2, (middle, channels, 1, 1), out=odd, activation=1)
    second = convolution(1, 2, 3, (16, odd, 3, 3), out=31, activation=1)
    third = convolution(1, 3, 4, (half, 31, 1, 1), out=channels, other=1, outer=1)
    fourth = convolution(0, 4, 5, (5, channels, 3, 3), stride=2)
    add(3, 5, 6, 5)
    dense, bias = random.normal(size=(7, 5)), random.normal(size=7)
    add(0, 6, 7, 7, weight=parameters(dense), bias=parameters(bias))

    def ghost(x, module, out, relus, shortcut=None):
        u = reference.convolution(x, module[0])
        return reference.ghost_tail(u, module[1], module[2], module[3], out, relus, shortcut)

    images = random.normal(size=size)
    x = reference.stem_tail(reference.convolution(images, stem[0], 2), *stem[1])
    y = ghost(ghost(x, first, odd, 1), second, 31, 1)
    y = ghost(y, third, channels, 0, x)
    y = reference.batch_norm(reference.convolution(y, fourth[0], 2), *fourth[1])
    expected = y.mean((2, 3)) @ dense.T + bias
    (found,) = call(library, "ghost_program", [steps, images, *inputs], [expected.shape])
    check_close("ghost_program", found, expected)


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
