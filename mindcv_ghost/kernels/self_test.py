"""The operators against plain formulas in float64: what a library has to pass before it is used.

``python -m mindcv_ghost.kernels.self_test LIBRARY`` in a process of its own, because a library that
was built for another processor may end the process. Exit status 0 if all is right.

Gradients are held against differences of the forward formulas along a random direction; those of a
convolution, which is linear, against the forward pass itself.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence

import numpy as np

from mindcv_ghost.kernels.calls import call

__all__ = ["check_library", "convolution", "stem", "tail"]

EPSILON, SHARE = 1e-5, 0.1

# images, channels in and out, height, width, kernel, stride: pointwise, 3x3 directly and by
# Winograd's algorithm (it needs more channels), strided, few channels, steps beyond the kernel
_CONVOLUTIONS = (
    (3, 8, 12, 9, 7, 1, 1),
    (9, 6, 10, 4, 4, 3, 1),
    (2, 20, 34, 18, 11, 3, 1),
    (3, 24, 18, 7, 10, 1, 2),
    (2, 3, 8, 11, 9, 7, 2),
    (3, 5, 7, 5, 6, 3, 4),
)


def _batch_norm(x: np.ndarray, *norm: np.ndarray) -> np.ndarray:
    """Gamma and beta; with moving mean and variance behind them, as in evaluation."""
    gamma, beta, *moving = (values.reshape(1, -1, 1, 1) for values in norm)
    mean, variance = moving or (x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True))
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def convolution(x: np.ndarray, weight: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
    """A convolution padded by half its odd kernel, in the arrays' own precision."""
    (n, _, height, width), (tall, wide) = x.shape, weight.shape[2:]
    up, left = tall // 2, wide // 2
    padded = np.pad(x, ((0, 0), (0, 0), (up, up), (left, left)))
    rows, columns = -(-height // stride), -(-width // stride)
    split = padded.reshape(n, groups, -1, *padded.shape[2:])
    split_weight = weight.reshape(groups, -1, *weight.shape[1:])
    y = 0
    for i in range(tall):
        for j in range(wide):
            seen = split[..., i : i + stride * rows : stride, j : j + stride * columns : stride]
            seen = seen[..., :rows, :columns]
            y = y + np.einsum("ngchw,gkc->ngkhw", seen, split_weight[..., i, j])
    return y.reshape(n, -1, rows, columns)


def tail(
    u: np.ndarray,
    gamma1: np.ndarray,
    beta1: np.ndarray,
    weight: np.ndarray,
    gamma2: np.ndarray,
    beta2: np.ndarray,
    out_channels: int,
    relu: bool,
    shortcut: np.ndarray | None = None,
    moving: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] = ((), ()),
) -> np.ndarray:
    """A Ghost module behind its primary convolution, in training; with ``moving``, evaluation."""
    act = (lambda v: np.maximum(v, 0)) if relu else (lambda v: v)
    x = act(_batch_norm(u, gamma1, beta1, *moving[0]))
    ghosts = convolution(x, weight, groups=u.shape[1])
    ghosts = act(_batch_norm(ghosts, gamma2, beta2, *moving[1]))
    y = np.concatenate((x, ghosts), 1)[:, :out_channels]
    return y if shortcut is None else np.maximum(y + shortcut, 0)


def stem(u: np.ndarray, *norm: np.ndarray) -> np.ndarray:
    """BN, ReLU and the max pool of 3x3, stride 2; with moving statistics, in evaluation."""
    x = np.pad(np.maximum(_batch_norm(u, *norm), 0), ((0, 0), (0, 0), (1, 2), (1, 2)))
    rows, columns = -(-u.shape[2] // 2), -(-u.shape[3] // 2)
    windows = [
        x[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)
    ]
    return np.max(windows, 0)


def check_library(library: ctypes.CDLL) -> None:
    """Compare every operator with its formula.

    Raises:
        AssertionError: if one is off; the message names it.
    """
    random = np.random.default_rng(0)
    for shape in ((3, 4, 4, 9, 7, 3, True), (2, 3, 6, 8, 8, 5, False), (5, 2, 2, 4, 4, 1, True)):
        _check_tail(library, random, *shape)
    _check_stem(library, random)
    for shape in _CONVOLUTIONS:
        _check_convolution(library, random, *shape)


def _check_tail(library, random, n, intrinsic, ghosts, height, width, kernel, relu) -> None:
    out_channels = intrinsic + ghosts - (1 if ghosts > intrinsic else 0)
    u = random.normal(size=(n, intrinsic, height, width))
    # A BN undoes a 1x1 weight, but for its epsilon: a large one's gradient is rounding alone.
    weight = random.normal(size=(ghosts, 1, kernel, kernel)) * (0.05 if kernel == 1 else 1)
    norms = [_norm(random, channels) for channels in (intrinsic, ghosts)]
    shortcut = random.normal(size=(n, out_channels, height, width))
    for extra in ([], [shortcut]):
        name = "ghost_tail_add" if extra else "ghost_tail"
        relu = relu and not extra  # what a shortcut is added to has no ReLU of its own
        settings = [relu, EPSILON, EPSILON]
        variables = [u, *norms[0][:2], weight, *norms[1][:2]]

        def formula(*values, extra=extra, relu=relu):
            return tail(*values[:6], out_channels, relu, *(values[6:] if extra else ()))

        inputs = [settings, *variables, *extra]
        y, kept = call(library, name, inputs, [shortcut.shape, (2 * (intrinsic + ghosts),)])
        _compare(name, y, formula(*variables, *extra))
        x = np.maximum(_batch_norm(u, *norms[0][:2]), 0) if relu else _batch_norm(u, *norms[0][:2])
        inner = (u, convolution(x, weight, groups=intrinsic))
        moved = _moved(library, u, kept, *norms[0][2:], *norms[1][2:])
        for index, (norm, values) in enumerate(zip(norms, inner)):
            _check_moved(name, moved[2 * index : 2 * index + 2], norm[2:], values)

        dy = random.normal(size=y.shape)
        inputs = [settings, *variables, kept, dy, *([y] if extra else [])]
        gradients = call(library, name + "_backward", inputs, [v.shape for v in variables + extra])
        _check_gradients(name + "_backward", random, formula, variables + extra, gradients, dy)

        name += "_evaluate"
        inputs = [settings, u, *norms[0], weight, *norms[1], *extra]
        (y,) = call(library, name, inputs, [shortcut.shape])
        moving = (norms[0][2:], norms[1][2:])
        expected = tail(*variables, out_channels, relu, *(extra or [None]), moving)
        _compare(name, y, expected)


def _check_stem(library, random) -> None:
    u, norm = random.normal(size=(3, 4, 9, 12)), _norm(random, 4)
    variables = [u, *norm[:2]]
    y, saved = call(library, "ghost_stem", [[EPSILON], *variables], [(3, 4, 5, 6), (8,)])
    _compare("ghost_stem", y, stem(*variables))
    _check_moved("ghost_stem", _moved(library, u, saved, *norm[2:]), norm[2:], u)
    dy = random.normal(size=y.shape)
    inputs = [[EPSILON], *variables, saved, dy]
    gradients = call(library, "ghost_stem_backward", inputs, [v.shape for v in variables])
    _check_gradients("ghost_stem_backward", random, stem, variables, gradients, dy)
    inputs = [[EPSILON], u, *norm]
    (y,) = call(library, "ghost_stem_evaluate", inputs, [(3, 4, 5, 6)])
    _compare("ghost_stem_evaluate", y, stem(u, *norm))


def _check_convolution(library, random, n, inputs, outputs, height, width, kernel, stride) -> None:
    x = random.normal(size=(n, inputs, height, width))
    weight = random.normal(size=(outputs, inputs, kernel, kernel))
    expected = convolution(x, weight, stride)
    dy = random.normal(size=expected.shape)
    (y,) = call(library, "ghost_conv", [[stride], x, weight], [expected.shape])
    _compare("ghost_conv", y, expected)
    (dx,) = call(library, "ghost_conv_backward_input", [[stride], dy, weight, x], [x.shape])
    step = random.normal(size=x.shape)
    change = (convolution(step, weight, stride) * dy).sum()
    _compare("ghost_conv_backward_input", (dx * step).sum(), change)
    other = random.normal(size=x.shape).astype(np.float32)
    inputs = [[stride], dy, weight, other]
    (total,) = call(library, "ghost_conv_backward_input_add", inputs, [x.shape])
    _compare("ghost_conv_backward_input_add", total, dx + other)
    (dw,) = call(library, "ghost_conv_backward_weight", [[stride], x, dy, weight], [weight.shape])
    step = random.normal(size=weight.shape)
    change = (convolution(x, step, stride) * dy).sum()
    _compare("ghost_conv_backward_weight", (dw * step).sum(), change)


def _norm(random, channels: int) -> list[np.ndarray]:
    """Gamma, beta, moving mean and moving variance."""
    return [
        random.uniform(0.5, 1.5, channels),
        *(random.normal(size=channels) for _ in range(2)),
        random.uniform(0.5, 1.5, channels),
    ]


def _compare(what: str, got, expected, tolerance: float = 2e-5) -> None:
    distance = np.abs(got - expected).max() / np.abs(expected).max()
    if not distance <= tolerance:
        raise AssertionError(f"{what} is off by {distance:.1e} of its greatest value")


def _moved(library, x, saved, *moving: np.ndarray) -> list[np.ndarray]:
    """What moving means and variances become by what an operator has saved of x."""
    inputs = [[SHARE] * (len(moving) // 2), x, saved, *moving]
    return call(library, "ghost_move", inputs, [(1,)], written=len(moving))[1:]


def _check_moved(what: str, got, moving, values: np.ndarray) -> None:
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), ddof=1)
    for new, old, batch in zip(got, moving, (mean, variance)):
        _compare(f"{what}'s moving statistics", new, (1 - SHARE) * old + SHARE * batch)


def _check_gradients(what, random, formula: Callable, variables, gradients, dy) -> None:
    width = 1e-6
    for index, gradient in enumerate(gradients):
        step = random.normal(size=gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = list(variables)
            moved[index] = moved[index] + sign * width * step
            ends.append((formula(*moved) * dy).sum())
        scale = np.sqrt((gradient**2).sum() + 1) * np.sqrt(step.size)
        change = (ends[0] - ends[1]) / (2 * width)
        _compare(f"{what}, gradient {index}", (gradient * step).sum() + scale, change + scale, 1e-4)


def main(argv: list[str]) -> int:
    """Check the library that is named."""
    from mindcv_ghost.kernels.self_test_layers import check_layers

    library = ctypes.CDLL(argv[0])
    library.ghost_set_threads(2)
    try:
        check_library(library)
        check_layers(library)
    except (AssertionError, ValueError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
