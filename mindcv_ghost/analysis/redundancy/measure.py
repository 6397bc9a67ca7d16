"""Find the pairs of maps that predict each other best, and the errors over all maps."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.analysis.hooks import evaluate_with_hooks
from mindcv_ghost.analysis.least_squares import pair_residuals, sample_positions, values_at
from mindcv_ghost.errors import ConfigError, DataError, near_names

__all__ = [
    "PAIR_KERNEL_SIZE",
    "Redundancy",
    "default_layer",
    "errors_csv",
    "feature_maps",
    "measure_redundancy",
]

SIZES = (1, 3, 5, 7)  # the paper's
PAIR_KERNEL_SIZE = 3  # the kernel size whose errors choose the pairs
_PAIRS = 3  # as in the paper's figure
_POSITIONS = 4096
# A map is dead if its variance is below this share of the median variance.
_DEAD = 1e-2


@dataclasses.dataclass(frozen=True)
class Redundancy:
    """How well each live map of a layer is predicted from each other one.

    Args:
        live: indices of the maps that aren't dead, of shape (L,).
        channels: number of maps in the layer.
        variance: of each live map, of shape (L,).
        relative: for each kernel size the relative errors, of shape (L, L): rows are sources,
            columns are targets, and the diagonal is infinite.
        pairs: the pairs with the smallest errors, as indices (source, target) of the layer's maps.
            No map is in two pairs.
    """

    live: np.ndarray
    channels: int
    variance: np.ndarray
    relative: dict[int, np.ndarray]
    pairs: tuple[tuple[int, int], ...]

    def of_pair(self, source: int, target: int, size: int) -> tuple[float, float]:
        """Return the mean squared and the relative error of predicting one map from another."""
        i, j = np.searchsorted(self.live, (source, target))
        relative = float(self.relative[size][i, j])
        return relative * float(self.variance[j]), relative

    def best(self, size: int) -> np.ndarray:
        """Return the relative error of each live map from its best source, of shape (L,)."""
        return self.relative[size].min(axis=0)


def default_layer(network: nn.Cell) -> str:
    """Find the end of the first residual stage: the first stride of 4 in ``feature_info``.

    Raises:
        ConfigError: if the network has no ``feature_info`` with such a stage.
    """
    cells = dict(network.cells_and_names())
    for info in getattr(network, "feature_info", None) or ():
        if info.get("reduction", 0) >= 4 and info.get("name") in cells:
            return info["name"]
    names = [name for name in cells if name]
    raise ConfigError(
        f"{type(network).__name__} has no feature_info that names its stages; give --layer, for "
        f"example "
        f"{', '.join(names[:: max(1, len(names) // 6)][:6])}"
    )


def feature_maps(network: nn.Cell, images: np.ndarray, layer: str) -> np.ndarray:
    """Run a network in evaluation mode and return the output of a layer, of shape (N, C, H, W).

    Args:
        network: takes one tensor; its weights and mode stay the same.
        images: of shape (N, C, H, W), normalised.
        layer: path of a cell. If it runs several times, its last output is returned.

    Raises:
        ConfigError: if there is no such cell, or its output isn't feature maps.
    """
    cells = {name: cell for name, cell in network.cells_and_names() if name}
    if layer not in cells:
        near = near_names(layer, cells, count=5, cutoff=0.4) or list(cells)[:5]
        raise ConfigError(f"--layer: there is no layer {layer!r}; there are {', '.join(near)}")
    outputs: list[Any] = []

    def keep(_name: str, _cell: nn.Cell, _inputs: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)

    with evaluate_with_hooks(network, {layer: cells[layer]}, keep):
        network(Tensor(images))
    shape = tuple(getattr(outputs[-1], "shape", ())) if outputs else ()
    if len(shape) != 4 or min(shape[2:]) < 2 or shape[1] < 2:
        problem = f"has an output of shape {shape}" if outputs else "doesn't run in evaluation"
        raise ConfigError(
            f"--layer {layer} {problem}; choose one whose output is maps (N, C, H, W) with C, H "
            f"and W at least 2"
        )
    return outputs[-1].asnumpy()


def measure_redundancy(maps: np.ndarray, sizes: Sequence[int] = SIZES, seed: int = 0) -> Redundancy:
    """Predict every live map from every other one by kernels of each size.

    Args:
        maps: of shape (N, C, H, W).
        sizes: of the kernels, odd.
        seed: for drawing 4096 positions, if the maps have more.

    Raises:
        DataError: if fewer than two maps are live.
    """
    count, channels, height, width = maps.shape
    variance = maps.var(axis=(0, 2, 3), dtype=np.float64)
    median = np.median(variance[variance > 0]) if (variance > 0).any() else 0.0
    live = np.flatnonzero(variance > _DEAD * median)
    if len(live) < 2:
        raise DataError(f"{len(live)} of {channels} maps vary; a pair needs at least 2")
    maps = maps[:, live] / np.sqrt(variance[live]).astype(np.float32)[:, None, None]
    rng = np.random.default_rng(seed)
    positions = sample_positions(count, height, width, _POSITIONS, rng)
    targets = values_at(maps, positions)
    relative = {}
    for size in sizes:
        errors = pair_residuals(maps, targets, positions, size, intercept=True)
        np.fill_diagonal(errors, np.inf)
        relative[size] = errors / np.maximum(targets.var(axis=1), 1e-12)
    chosen = relative[PAIR_KERNEL_SIZE if PAIR_KERNEL_SIZE in relative else max(relative)]
    pairs = tuple((int(live[i]), int(live[j])) for i, j in _nearest(chosen))
    return Redundancy(live, channels, variance[live], relative, pairs)


def _nearest(errors: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs with the smallest errors; no map is in two pairs."""
    errors = errors.copy()
    pairs: list[tuple[int, int]] = []
    while len(pairs) < _PAIRS and np.isfinite(errors).any():
        i, j = np.unravel_index(errors.argmin(), errors.shape)
        pairs.append((int(i), int(j)))
        errors[[i, j]] = errors[:, [i, j]] = np.inf
    return pairs


def errors_csv(result: Redundancy) -> str:
    """Format the paper's table, and the same errors over all maps, as CSV."""
    sizes = list(result.relative)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("what", "measure", "source", "target", *(f"d={size}" for size in sizes)))
    for number, (source, target) in enumerate(result.pairs, start=1):
        values = [result.of_pair(source, target, size) for size in sizes]
        for measure, column in (("mse", 0), ("relative", 1)):
            errors = (f"{value[column]:.4g}" for value in values)
            writer.writerow((f"pair {number}", measure, source, target, *errors))
    best = [result.best(size) for size in sizes]
    summaries = {
        "each map from its best source: median": [np.median(b) for b in best],
        "each map from its best source: mean": [b.mean() for b in best],
        "each map from its best source: share below 0.1": [(b < 0.1).mean() for b in best],
        "all pairs: median": [
            np.median(errors[np.isfinite(errors)]) for errors in result.relative.values()
        ],
    }
    for what, values in summaries.items():
        writer.writerow((what, "relative", "", "", *(f"{value:.4g}" for value in values)))
    return out.getvalue()
