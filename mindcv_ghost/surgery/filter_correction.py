"""Correct a convolution's filters for inputs that differ from those it was trained on."""

from __future__ import annotations

import numpy as np
from mindspore import nn

from mindcv_ghost.analysis.least_squares import Positions

__all__ = ["correct_filters", "input_patches"]

# Penalty on changes of the filters, as a share of the inputs' mean square.
_RIDGE = 0.1


def correct_filters(
    conv: nn.Conv2d,
    inputs: np.ndarray,
    errors: np.ndarray,
    positions: Positions,
    intercept: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a small change of a convolution's filters that corrects the errors of its output.

    Args:
        conv: a convolution without groups.
        inputs: of the convolution, of shape (N, in, H, W).
        errors: wanted minus actual output at the positions, of shape (out, P).
        positions: P positions of the output.
        intercept: whether a constant may be added to each map.

    Returns:
        The change, of the weight's shape, and the constants, of shape (out,).

    Source: ridge regression around the trained weights, after He et al. (arXiv 1707.06168), section
    3.1.
    """
    patches, targets = input_patches(conv, inputs, positions), errors.T
    patch_mean = np.zeros(patches.shape[1], np.float32)
    target_mean = np.zeros(targets.shape[1], np.float32)
    if intercept:
        patch_mean, target_mean = patches.mean(axis=0), targets.mean(axis=0)
    change = _ridge_regression(patches - patch_mean, targets - target_mean)
    return change.T.reshape(conv.weight.shape), target_mean - patch_mean @ change


def input_patches(conv: nn.Conv2d, inputs: np.ndarray, positions: Positions) -> np.ndarray:
    """Extract the patches that a convolution reads for P outputs, of shape (P, C * kH * kW)."""
    pads = [_padding(conv, axis, inputs.shape[2 + axis]) for axis in range(2)]
    padded = np.pad(inputs, ((0, 0), (0, 0), *pads))
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
    """Return the number of zeros before and after the rows (axis 0) or columns (axis 1)."""
    if conv.pad_mode == "pad":
        padding = conv.padding
        return (padding, padding) if isinstance(padding, int) else padding[2 * axis : 2 * axis + 2]
    if conv.pad_mode == "valid":
        return 0, 0
    stride, reach = conv.stride[axis], (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
    missing = max((-(-side // stride) - 1) * stride + reach - side, 0)
    return missing // 2, missing - missing // 2


def _ridge_regression(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Solve inputs @ x = targets by ridge regression; (P, K) and (P, T) give (K, T)."""
    from scipy.linalg import solve  # slow to import, so only when needed

    wide = inputs.shape[0] < inputs.shape[1]
    gram = (inputs @ inputs.T if wide else inputs.T @ inputs).astype(np.float64)
    ridge = _RIDGE * np.square(inputs).sum(dtype=np.float64) / inputs.shape[1]
    if ridge == 0.0:
        return np.zeros((inputs.shape[1], targets.shape[1]))
    gram[np.diag_indices_from(gram)] += ridge
    if wide:
        return inputs.T @ solve(gram, targets, assume_a="pos")
    return solve(gram, inputs.T @ targets, assume_a="pos")
