"""Filters corrected for inputs that are no longer those that they were trained on."""

from __future__ import annotations

import numpy as np
from mindspore import nn

from mindcv_ghost.analysis.least_squares import Positions

__all__ = ["correct_filters", "input_patches"]

# Of the mean square of the inputs: how dear it is to change a filter.
_RIDGE = 0.1


def correct_filters(
    conv: nn.Conv2d,
    given: np.ndarray,
    wanted: np.ndarray,
    positions: Positions,
    intercept: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the smallest change of a convolution's filters that adds what its output lacks.

    Args:
        conv: not in groups.
        given: what the convolution reads, of shape (N, in, H, W).
        wanted: what its output lacks at the positions, of shape (out, P).
        positions: P of its output's.
        intercept: whether a constant may be added to each map.

    Returns:
        The change, of the weight's shape, and the constants, of shape (out,).

    Source: ridge regression around the trained weights, after He et al. (arXiv 1707.06168), section
    3.1.
    """
    patches, wanted = input_patches(conv, given, positions), wanted.T
    middle, level = np.zeros(patches.shape[1], np.float32), np.zeros(wanted.shape[1], np.float32)
    if intercept:
        middle, level = patches.mean(axis=0), wanted.mean(axis=0)
    change = _ridge_regression(patches - middle, wanted - level)
    return change.T.reshape(conv.weight.shape), level - middle @ change


def input_patches(conv: nn.Conv2d, given: np.ndarray, positions: Positions) -> np.ndarray:
    """What a convolution reads for each of its P outputs, of shape (P, C * kH * kW)."""
    pads = [_padding(conv, axis, given.shape[2 + axis]) for axis in range(2)]
    padded = np.pad(given, ((0, 0), (0, 0), *pads))
    image, row, column = positions
    rows = row * conv.stride[0], conv.dilation[0]
    columns = column * conv.stride[1], conv.dilation[1]
    patches = [
        padded[image, :, rows[0] + u * rows[1], columns[0] + v * columns[1]]
        for u in range(conv.kernel_size[0])
        for v in range(conv.kernel_size[1])
    ]
    return np.stack(patches, axis=-1).reshape(len(image), -1)


def _padding(conv: nn.Conv2d, axis: int, side: int) -> tuple[int, int]:
    """Zeros before and behind rows (axis 0) or columns (axis 1)."""
    if conv.pad_mode == "pad":
        padding = conv.padding
        return (padding, padding) if isinstance(padding, int) else padding[2 * axis : 2 * axis + 2]
    if conv.pad_mode == "valid":
        return 0, 0
    stride, reach = conv.stride[axis], (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
    missing = max((-(-side // stride) - 1) * stride + reach - side, 0)
    return missing // 2, missing - missing // 2


def _ridge_regression(inputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Solve inputs @ x = wanted by least squares, with small x; (P, K) and (P, T) give (K, T)."""
    from scipy.linalg import solve  # takes its time, which no other start should pay

    wide = inputs.shape[0] < inputs.shape[1]
    gram = (inputs @ inputs.T if wide else inputs.T @ inputs).astype(np.float64)
    ridge = _RIDGE * np.square(inputs).sum(dtype=np.float64) / inputs.shape[1]
    if ridge == 0.0:
        return np.zeros((inputs.shape[1], wanted.shape[1]))
    gram[np.diag_indices_from(gram)] += ridge
    if wide:
        return inputs.T @ solve(gram, wanted, assume_a="pos")
    return solve(gram, inputs.T @ wanted, assume_a="pos")
