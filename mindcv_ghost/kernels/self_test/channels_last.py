"""The check of ``ghost_channels_last``: a program with every kind of step, against formulas."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mindcv_ghost.kernels.self_test import reference
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.kernels.self_test.comparison import check_close
from mindcv_ghost.kernels.self_test.reference import EPSILON

__all__ = ["check_channels_last"]

_STEM, _GHOST, _POINTWISE, _DEPTHWISE, _MEANS, _LINEAR, _EXCITE, _HALVE, _ATTEND = range(9)
_STRIDED_GHOST = 9
_NONE = -1


class _Writer:
    """Writes a program; each layer's formula is returned."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.numbers: list[float] = [7]  # maps
        self.parameters: list[np.ndarray] = []

    def add(self, *numbers: float) -> None:
        self.numbers += numbers

    def parameter(self, *arrays: np.ndarray) -> int:
        self.parameters += arrays
        return len(self.parameters) - len(arrays)

    def filter(
        self, out: int, in_channels: int, *kernels: tuple[int, int], identity: bool = False
    ) -> Callable[..., np.ndarray]:
        """Parallel branches with BN; of the first kernel's size or smaller."""
        rows, columns = kernels[0]
        self.add(len(kernels) + identity, rows, columns)
        groups = out if in_channels == 1 else 1
        branches = []
        for kernel in kernels:
            weight = self.random.normal(size=(out, in_channels, *kernel))
            weight /= np.sqrt(weight[0].size)
            norm = self.norm(out)
            self.add(self.parameter(weight), *kernel, _NONE, self.parameter(*norm), EPSILON)
            branches.append((weight, norm))
        skip = self.norm(out)
        if identity:
            self.add(_NONE, 1, 1, _NONE, self.parameter(*skip), EPSILON)

        def formula(x: np.ndarray, stride: int = 1) -> np.ndarray:
            parts = [
                reference.batch_norm(reference.convolution(x, weight, stride, groups), *norm)
                for weight, norm in branches
            ]
            return np.sum([*parts, reference.batch_norm(x, *skip)] if identity else parts, 0)

        return formula

    def norm(self, channels: int) -> list[np.ndarray]:
        """Gamma, beta, running mean and running variance."""
        random = self.random
        positive = [random.uniform(0.5, 1.5, channels) for _ in range(2)]
        any_sign = [random.normal(size=channels) for _ in range(2)]
        return [positive[0], *any_sign, positive[1]]

    def dense(self, out: int, in_channels: int) -> Callable[[np.ndarray], np.ndarray]:
        """Weight and bias of a linear layer."""
        weight = self.random.normal(size=(out, in_channels)) / np.sqrt(in_channels)
        bias = self.random.normal(size=out)
        self.add(self.parameter(weight), self.parameter(bias))
        return lambda x: x @ weight.T + bias


def check_channels_last(
    library: ctypes.CDLL, random: np.random.Generator, size: Sequence[int], channels: int
) -> None:
    """Compare the operator's logits with formulas.

    Args:
        library: as ``ctypes`` loaded it.
        random: draws weights and images.
        size: of the images, (N, C, H, W), at least 9x9.
        channels: even, of the widest maps.

    Raises:
        AssertionError: if they differ.
    """
    program = _Writer(random)
    add, half = program.add, channels // 2
    add(_STEM, half, half, 2, True, 0)
    stem = program.filter(channels, size[1], (3, 3))
    add(_HALVE, 0, 2, _ATTEND, 2, half, half - 1, 6)
    attention = (
        program.filter(channels - 1, channels, (1, 1)),
        program.filter(channels - 1, 1, (1, 5)),
        program.filter(channels - 1, 1, (5, 1)),
    )
    add(_GHOST, 0, half, half - 1, True, 1, _NONE, 6)  # a ghost map is cropped
    first = program.filter(half, channels, (1, 1)), program.filter(half, 1, (3, 3))
    add(_DEPTHWISE, 1, 2, True, 3)
    strided = program.filter(channels - 1, 1, (5, 5))
    add(_MEANS, 3, 2, _LINEAR, 2, 5, 1, 0, 4)
    reduce = program.dense(5, channels - 1)
    add(_EXCITE, 4, 3)
    expand = program.dense(channels - 1, 5)
    add(_POINTWISE, 3, 3, 3, False, 5, _NONE)
    shortcut = program.filter(6, channels - 1, (1, 1))
    add(_GHOST, 3, 3, 3, False, 5, 5, _NONE)
    second = program.filter(3, channels - 1, (1, 1)), program.filter(3, 1, (3, 3))
    add(_GHOST, 5, half, 0, True, 1, _NONE, _NONE)  # as in RepGhostNet
    third = (
        program.filter(half, 6, (1, 1), (1, 1)),
        program.filter(half, 1, (3, 3), (1, 1), identity=True),
    )
    add(_STRIDED_GHOST, 1, half, half - 1, True, 2, False, 2)
    fourth = program.filter(half, half, (1, 1)), program.filter(half, 1, (3, 3))
    strided_ghost = program.filter(channels - 1, 1, (5, 5))
    add(_STRIDED_GHOST, 2, half, 0, True, 1, True, 3)
    fifth = program.filter(half, channels - 1, (1, 1)), program.filter(half, 1, (5, 5))
    strided_rep_ghost = program.filter(half, 1, (3, 3))
    add(_POINTWISE, 3, channels, 0, True, 0, _NONE)
    last = program.filter(channels, half, (1, 1))
    add(_MEANS, 0, 2, _LINEAR, 2, 7, 0, 1)
    classify = program.dense(7, channels)

    images = random.normal(size=size)
    x = _relu(stem(images, 2))
    intrinsic = _relu(first[0](x))
    y = np.concatenate((intrinsic, _relu(first[1](intrinsic))), 1)[:, : channels - 1]
    weights = _halved(x)
    for layer in attention:
        weights = layer(weights)
    y = y * reference.enlarged(1 / (1 + np.exp(-weights)), *y.shape[2:])
    y = _relu(strided(y, 2))
    factors = np.clip(expand(_relu(reduce(y.mean((2, 3))))) / 6 + 0.5, 0, 1)
    y = y * factors[:, :, None, None]
    intrinsic = second[0](y)
    y = shortcut(y) + np.concatenate((intrinsic, second[1](intrinsic)), 1)
    y = _relu(third[1](_relu(third[0](y))))
    intrinsic = _relu(fourth[0](y))
    y = np.concatenate((intrinsic, _relu(fourth[1](intrinsic))), 1)[:, : channels - 1]
    y = _relu(fifth[1](_relu(fifth[0](strided_ghost(y, 2)))))
    y = _relu(last(_relu(strided_rep_ghost(y))))
    expected = classify(y.mean((2, 3)))
    inputs: list[ArrayLike] = [program.numbers, images, *program.parameters]
    (logits,) = call(library, "ghost_channels_last", inputs, [expected.shape])
    check_close("ghost_channels_last", logits, expected)


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of squares of 2x2."""
    n, channels, height, width = x.shape
    cut = x[:, :, : height // 2 * 2, : width // 2 * 2]
    return cut.reshape(n, channels, height // 2, 2, width // 2, 2).mean((3, 5))
