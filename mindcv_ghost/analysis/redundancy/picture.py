"""Draw a layer's maps, with the most similar pairs in boxes and their predictions beside."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mindcv_ghost.analysis.least_squares import (
    all_positions,
    extract_patches,
    fit_kernels,
    values_at,
)
from mindcv_ghost.analysis.redundancy.measure import PAIR_KERNEL_SIZE, Redundancy
from mindcv_ghost.report.plots import BLUE, GREEN, ORANGE, new_figure, save_png

__all__ = ["draw_redundancy"]

_COLOURS = (ORANGE, BLUE, GREEN)
_ROWS, _COLUMNS = 6, 8  # of the grid of maps


def draw_redundancy(
    maps: np.ndarray, result: Redundancy, title: str, png: str | os.PathLike
) -> None:
    """Draw the first image's maps, and for each pair the source, the prediction and the target.

    Args:
        maps: of shape (N, C, H, W).
        result: what was measured on these maps.
        title: model and layer.
        png: path of the picture.

    Raises:
        ReportError: if matplotlib isn't installed.
    """
    colours = {n: c for pair, c in zip(result.pairs, _COLOURS) for n in pair}
    shown = _shown(result, list(colours))
    rows = -(-len(shown) // _COLUMNS)
    figure = new_figure(13.5, max(1.05 * rows + 0.6, 5.6))
    left, right = figure.subfigures(1, 2, width_ratios=(8.4, 5.1))
    cells = left.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in cells:
        axes.axis("off")
    for axes, number in zip(cells, shown):
        _show(axes, maps[0, number], f"{number}", colours.get(number))
    left.suptitle(f"{title}: {len(shown)} of {result.channels} maps", size=12)
    kernel = f"{PAIR_KERNEL_SIZE}x{PAIR_KERNEL_SIZE} kernel"
    right.suptitle(f"One map, filtered by its best {kernel}, beside the other", size=12)
    grid = right.subplots(len(result.pairs), 3, squeeze=False)
    for line, (source, target), colour in zip(grid, result.pairs, _COLOURS):
        predicted = _predicted(maps, source, target)
        relative = result.of_pair(source, target, PAIR_KERNEL_SIZE)[1]
        limits = {"vmin": maps[0, target].min(), "vmax": maps[0, target].max()}
        _show(line[0], maps[0, source], f"map {source}", colour)
        _show(
            line[1], predicted, f"{source} filtered, error {100 * relative:.1f} %", None, **limits
        )
        _show(line[2], maps[0, target], f"map {target}", colour, **limits)
    save_png(figure, png, dpi=100)


def _shown(result: Redundancy, wanted: list[int]) -> list[int]:
    """Choose as many maps as fit, in ascending order: those wanted, then the first live ones."""
    others = [int(number) for number in result.live if number not in wanted]
    return sorted([*wanted, *others][: _ROWS * _COLUMNS])


def _show(axes: Any, picture: np.ndarray, words: str, colour: str | None, **limits: Any) -> None:
    axes.imshow(picture, cmap="gray", interpolation="nearest", **limits)
    axes.set_title(words, size=9, pad=3, color=colour or "black",
                   weight="bold" if colour else "normal")  # fmt: skip
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=colour is not None, edgecolor=colour or "black", linewidth=3.5)


def _predicted(maps: np.ndarray, source: int, target: int) -> np.ndarray:
    """Predict the first image's target map from its source map with the best kernel."""
    count, _, height, width = maps.shape
    everywhere = all_positions(count, height, width)
    source_maps = maps[:, [source]]
    wanted = values_at(maps[:, [target]], everywhere)
    size = PAIR_KERNEL_SIZE
    kernels, constants, _ = fit_kernels(source_maps, wanted, everywhere, size, intercept=True)
    image, row, column = (axis[: height * width] for axis in everywhere)
    patches = extract_patches(source_maps[:1], (image, row, column), size)
    return (patches[0] @ kernels[0].ravel() + constants[0]).reshape(height, width)
