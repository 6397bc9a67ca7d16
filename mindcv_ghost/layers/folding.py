"""Folding of batch normalisation into convolutions, as arithmetic on arrays.

In evaluation a convolution and the BN after it are together an affine function of the input, and so
is a sum of such functions. Re-parameterised networks are based on this (RepVGG, Ding et al., arXiv
2101.03697, section 3.3). Everything is computed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np

__all__ = ["fold_batch_norm", "identity_kernel", "pad_kernel"]


def fold_batch_norm(
    kernel: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fold a convolution without bias and the BN after it into one convolution with a bias.

    Args:
        kernel: weights of shape (out, in / groups, kH, kW).
        gamma: BN's scale, of shape (out,).
        beta: BN's offset, of shape (out,).
        mean: BN's running mean, of shape (out,).
        variance: BN's running variance, of shape (out,).
        eps: BN's epsilon, which is added to the variance.

    Returns:
        Kernel and bias of that convolution, in float64.

    >>> one, two, six, nine = (np.array([value]) for value in (1.0, 2.0, 6.0, 9.0))
    >>> kernel, bias = fold_batch_norm(np.ones((1, 1, 1, 1)), six, one, two, nine, eps=0.0)
    >>> kernel.item(), bias.item()
    (2.0, -3.0)
    """
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + eps)
    folded = kernel.astype(np.float64) * scale[:, None, None, None]
    return folded, beta.astype(np.float64) - mean.astype(np.float64) * scale


def pad_kernel(kernel: np.ndarray, size: int) -> np.ndarray:
    """Pad a kernel (out, in, k, k) with zeros to (out, in, size, size), both odd.

    >>> pad_kernel(np.ones((1, 1, 1, 1)), 3)[0, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    margin = (size - kernel.shape[-1]) // 2
    return np.pad(kernel, ((0, 0), (0, 0), (margin, margin), (margin, margin)))


def identity_kernel(channels: int) -> np.ndarray:
    """Return the depthwise 1x1 kernel (channels, 1, 1, 1) of the identity."""
    return np.ones((channels, 1, 1, 1))
