"""Recompute BN's running statistics after the activations of a network have changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_ghost.analysis.hooks import evaluate_with_hooks

__all__ = [
    "batch_norms",
    "channel_statistics",
    "normalise",
    "per_channel",
    "recompute_running_statistics",
]


def recompute_running_statistics(network: nn.Cell, calibration: Iterable[np.ndarray]) -> None:
    """Replace BN's running statistics by those of calibration images.

    One pass: each layer normalises with the statistics of its batch, as in training, but without
    dropout. The running mean and variance become those of all values in all batches. Layers that
    don't run, and layers that always or never use batch statistics, stay the same.

    Args:
        network: takes one tensor of images; it may have run before.
        calibration: batches of shape (N, C, H, W), at least as large as in training.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima" (arXiv 1803.05407), section
    3.2.
    """
    layers = batch_norms(network)
    sums: dict[str, np.ndarray] = {}

    def measure(name: str, layer: nn.Cell, inputs: tuple[Any, ...], _output: Tensor) -> Tensor:
        maps = inputs[0].asnumpy()
        mean, variance = channel_statistics(maps)
        count = maps.size / len(mean)
        moments = count * np.stack((np.ones_like(mean), mean, variance + mean**2))
        sums[name] = sums.get(name, 0.0) + moments
        return Tensor(normalise(layer, maps, mean, variance))

    with evaluate_with_hooks(network, layers, measure):
        for batch in calibration:
            network(Tensor(batch))
    for name, (count, first, second) in sums.items():
        mean = first / count
        variance = np.maximum(second / count - mean**2, 0.0)
        # In place: after Parameter.set_data, kernels that have run before still use the old memory
        # (MindSpore 2.8, CPU).
        layer = layers[name]
        ops.assign(layer.moving_mean, Tensor(mean.astype(np.float32)))
        ops.assign(layer.moving_variance, Tensor(variance.astype(np.float32)))


def batch_norms(network: nn.Cell) -> dict[str, nn.Cell]:
    """Find the BNs that use batch statistics in training and running ones in evaluation."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return {
        name: cell
        for name, cell in network.cells_and_names()
        if isinstance(cell, kinds) and cell.use_batch_statistics is None
    }


def channel_statistics(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and variance of each channel of maps (N, C, ...), in float64."""
    axes = (0, *range(2, maps.ndim))
    return maps.mean(axis=axes, dtype=np.float64), maps.var(axis=axes, dtype=np.float64)


def per_channel(values: np.ndarray, dimensions: int) -> np.ndarray:
    """Reshape one number a channel to broadcast over maps of ``dimensions`` axes, in float32."""
    return values.astype(np.float32).reshape(1, -1, *[1] * (dimensions - 2))


def normalise(
    layer: nn.Cell, maps: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Apply a BN to maps with the given mean and variance."""
    scale = layer.gamma.asnumpy() / np.sqrt(variance + layer.eps)
    shift = layer.beta.asnumpy() - mean * scale
    return maps * per_channel(scale, maps.ndim) + per_channel(shift, maps.ndim)
