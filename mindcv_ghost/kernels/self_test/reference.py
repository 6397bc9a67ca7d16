"""The operators as plain formulas in numpy, in the precision of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "EPSILON",
    "batch_norm",
    "batch_norm_tail",
    "convolution",
    "cross_entropy",
    "enlarged",
    "ghost_tail",
    "ring_sum",
    "stem_tail",
    "updated_statistics",
]

EPSILON = 1e-5
"""Of every batch normalisation here."""


def batch_norm(x: np.ndarray, *norm: np.ndarray) -> np.ndarray:
    """Batch normalisation in training, or with running mean and variance in evaluation.

    Args:
        x: of shape (N, C, H, W).
        norm: gamma and beta; in evaluation also running mean and running variance.
    """
    gamma, beta, *running = (values.reshape(1, -1, 1, 1) for values in norm)
    mean, variance = running or (x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True))
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def batch_norm_tail(
    x: np.ndarray, norm: Sequence[np.ndarray], relu: bool, shortcut: np.ndarray | None = None
) -> np.ndarray:
    """Batch normalisation and what follows it in a residual block.

    Args:
        x: of shape (N, C, H, W).
        norm: as :func:`batch_norm` takes it.
        relu: whether a ReLU follows.
        shortcut: of x's shape, added before a last ReLU; None for neither.
    """
    y = batch_norm(x, *norm)
    y = np.maximum(y, 0) if relu else y
    return y if shortcut is None else np.maximum(y + shortcut, 0)


def convolution(x: np.ndarray, weight: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
    """A convolution padded by half its odd kernel."""
    (n, _, height, width), (tall, wide) = x.shape, weight.shape[2:]
    up, left = tall // 2, wide // 2
    padded = np.pad(x, ((0, 0), (0, 0), (up, up), (left, left)))
    rows, columns = -(-height // stride), -(-width // stride)
    split = padded.reshape(n, groups, -1, *padded.shape[2:])
    split_weight = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.zeros((n, groups, split_weight.shape[1], rows, columns), x.dtype)
    for i in range(tall):
        for j in range(wide):
            seen = split[..., i : i + stride * rows : stride, j : j + stride * columns : stride]
            seen = seen[..., :rows, :columns]
            y = y + np.einsum("ngchw,gkc->ngkhw", seen, split_weight[..., i, j])
    return y.reshape(n, -1, rows, columns)


def ghost_tail(
    u: np.ndarray,
    first: Sequence[np.ndarray],
    weight: np.ndarray,
    second: Sequence[np.ndarray],
    out_channels: int,
    relus: int,
    shortcut: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> np.ndarray:
    """Everything in a Ghost module after its primary convolution.

    Args:
        u: that convolution's output, (N, C, H, W).
        first: the BN of the intrinsic maps, as :func:`batch_norm` takes it.
        weight: of the depthwise convolution, (ghosts, 1, d, d).
        second: the BN of the ghost maps.
        out_channels: maps that go out.
        relus: 0 for no ReLU, 1 for one after each BN, 2 for one before the depthwise convolution.
        shortcut: (N, out_channels, H, W), added before a last ReLU; None for neither.
        order: (out_channels,), which of the intrinsic and ghost maps each map that goes out is;
            None for the first ones.
    """
    x = batch_norm(u, *first)
    source = np.maximum(x, 0) if relus else x
    ghosts = batch_norm(convolution(source, weight, groups=u.shape[1]), *second)
    y = np.concatenate((x, ghosts), 1)
    y = y[:, :out_channels] if order is None else y[:, order]
    y = np.maximum(y, 0) if relus == 1 else y
    return y if shortcut is None else np.maximum(y + shortcut, 0)


def stem_tail(u: np.ndarray, *norm: np.ndarray) -> np.ndarray:
    """BN (see :func:`batch_norm`), ReLU, and max pooling of 3x3 with stride 2."""
    x = np.pad(np.maximum(batch_norm(u, *norm), 0), ((0, 0), (0, 0), (1, 2), (1, 2)))
    rows, columns = -(-u.shape[2] // 2), -(-u.shape[3] // 2)
    windows = [
        x[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)
    ]
    return np.max(windows, 0)


def cross_entropy(
    logits: np.ndarray, labels: np.ndarray, smoothing: float, mean: bool
) -> np.ndarray:
    """The softmax cross entropy of rows whose label isn't -100, their mean or sum, as (1,).

    Args:
        logits: of shape (N, classes).
        labels: indices of classes, (N).
        smoothing: share of the target that is spread over all classes.
        mean: or the sum.
    """
    counted = labels >= 0
    logits, labels = logits[counted], labels[counted].astype(int)
    shifted = logits - logits.max(1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    target = np.full(logits.shape, smoothing / logits.shape[1])
    target[np.arange(len(labels)), labels] += 1 - smoothing
    losses = -(target * log_softmax).sum(1)
    return np.array([losses.mean() if mean else losses.sum()])


def enlarged(weight: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps (N, C, h, w) enlarged to height and width by repetition ("nearest")."""
    for axis, wide in ((2, height), (3, width)):
        narrow = weight.shape[axis]
        weight = weight.take(np.arange(wide) * narrow // wide, axis)
    return weight


def updated_statistics(
    running: Sequence[np.ndarray], x: np.ndarray, momentum: float
) -> tuple[np.ndarray, np.ndarray]:
    """Running mean and variance after a batch, whose weight is ``momentum``."""
    mean, variance = running
    batch_mean, batch_variance = x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)
    return (
        (1 - momentum) * mean + momentum * batch_mean,
        (1 - momentum) * variance + momentum * batch_variance,
    )


def ring_sum(values: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of the ranks' float32 vectors, with the bits of MindSpore 2.8's all-reduce.

    A vector is cut into a chunk for each rank; the sum of a chunk begins with its own rank's
    values. A vector with fewer values than ranks is summed from rank 0 on.
    """
    ranks, size = len(values), values[0].size
    short, longer = divmod(size, ranks)
    total, start = np.empty(size, np.float32), 0
    for first in range(ranks):
        end = size if size < ranks else start + short + (first < longer)
        total[start:end] = values[first][start:end]
        for rank in range(first + 1, first + ranks):
            total[start:end] += values[rank % ranks][start:end]
        start = end
    return total
