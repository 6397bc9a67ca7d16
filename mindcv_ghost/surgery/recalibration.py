"""BN's moving statistics anew, for a network whose maps are no longer those that they were of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_ghost.analysis.observation import observed

__all__ = [
    "batch_norms",
    "channel_statistics",
    "normalised",
    "per_channel",
    "recalibrate_batch_norm",
]


def recalibrate_batch_norm(network: nn.Cell, calibration: Iterable[np.ndarray]) -> None:
    """Replace BN's moving statistics by those of calibration images.

    One pass: every layer sees maps that the layers before it have normalised by the statistics of
    their batch, as in training, but without dropout. Over several batches the moving mean becomes
    the mean of all values, the moving variance that of all values around it. Layers that don't run,
    or that always or never take the batch's statistics, stay as they are.

    Args:
        network: takes one tensor of images; it may have run before.
        calibration: batches of shape (N, C, H, W), as large as training's or larger.

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
        return Tensor(normalised(layer, maps, mean, variance))

    with observed(network, layers, measure):
        for batch in calibration:
            network(Tensor(batch))
    for name, (count, first, second) in sums.items():
        mean = first / count
        variance = np.maximum(second / count - mean**2, 0.0)
        # In place, because Parameter.set_data leaves kernels that have run with the old memory
        # (MindSpore 2.8, CPU).
        layer = layers[name]
        ops.assign(layer.moving_mean, Tensor(mean.astype(np.float32)))
        ops.assign(layer.moving_variance, Tensor(variance.astype(np.float32)))


def batch_norms(network: nn.Cell) -> dict[str, nn.Cell]:
    """Name the BNs that take the batch's statistics in training and moving ones in evaluation."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return {
        name: cell
        for name, cell in network.cells_and_names()
        if isinstance(cell, kinds) and cell.use_batch_statistics is None
    }


def channel_statistics(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel of (N, C, ...), in float64."""
    axes = (0, *range(2, maps.ndim))
    return maps.mean(axis=axes, dtype=np.float64), maps.var(axis=axes, dtype=np.float64)


def per_channel(values: np.ndarray, dimensions: int) -> np.ndarray:
    """Shape one number a channel so that it goes with maps of so many dimensions, in float32."""
    return values.astype(np.float32).reshape(1, -1, *[1] * (dimensions - 2))


def normalised(
    layer: nn.Cell, maps: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """What a BN makes of maps with these statistics."""
    scale = layer.gamma.asnumpy() / np.sqrt(variance + layer.eps)
    shift = layer.beta.asnumpy() - mean * scale
    return maps * per_channel(scale, maps.ndim) + per_channel(shift, maps.ndim)
