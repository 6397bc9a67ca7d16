"""Small networks and batches whose steps can be recomputed with numpy."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

CLASSES = 3
FEATURES = 4


class Linear(nn.Cell):
    """``(N, 4) -> (N, 3)`` without bias."""

    def __init__(self) -> None:
        super().__init__()
        weight = np.linspace(-0.5, 0.5, CLASSES * FEATURES, dtype=np.float32)
        self.classifier = nn.Dense(
            FEATURES, CLASSES, Tensor(weight.reshape(CLASSES, FEATURES)), has_bias=False
        )

    def construct(self, x):
        return self.classifier(x)


class MeanProduct(nn.Cell):
    """The mean of the first logit over the batch: a loss with a simple gradient."""

    def construct(self, logits, labels):
        return ops.mean(logits[:, 0]) + 0.0 * ops.cast(labels, ms.float32).sum()


class CrossEntropy(nn.Cell):
    def construct(self, logits, labels):
        return ops.cross_entropy(logits, labels)


def batch(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    y = rng.integers(0, CLASSES, rows).astype(np.int32)
    return Tensor(x), Tensor(y)


def cross_entropy_gradient(weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient of the mean cross-entropy of ``x @ weight.T``, in float64."""
    logits = x.astype(np.float64) @ weight.astype(np.float64).T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x.astype(np.float64) / len(y)
