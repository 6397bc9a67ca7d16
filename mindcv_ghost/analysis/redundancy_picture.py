"""The picture of ``mindcv_ghost.analysis.redundancy``: maps, and which of them are alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mindcv_ghost.analysis.least_squares import fit_kernels, map_values, neighbourhoods
from mindcv_ghost.report.plots import BLUE, GREEN, ORANGE, new_figure, save_png

if TYPE_CHECKING:
    from mindcv_ghost.analysis.redundancy import Redundancy

__all__ = ["draw_redundancy"]

_COLOURS = (ORANGE, BLUE, GREEN)
_ROWS, _COLUMNS = 6, 8  # of maps
_SIZE = 3  # of the kernel in the picture


def draw_redundancy(
    maps: np.ndarray, result: Redundancy, title: str, png: str | os.PathLike
) -> None:
    """Draw the first image's maps, the nearest pairs in boxes, and how the one makes the other.

    Args:
        maps: of shape (N, C, H, W).
        result: of these maps.
        title: what they are.
        png: the picture's path.

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
    right.suptitle(
        f"One map, filtered by its best {_SIZE}x{_SIZE} kernel, beside the other", size=12
    )
    grid = right.subplots(len(result.pairs), 3, squeeze=False)
    for line, (source, target), colour in zip(grid, result.pairs, _COLOURS):
        made = _made(maps, source, target)
        relative = result.of_pair(source, target, _SIZE)[1]
        limits = {"vmin": maps[0, target].min(), "vmax": maps[0, target].max()}
        _show(line[0], maps[0, source], f"map {source}", colour)
        _show(line[1], made, f"{source} filtered, error {100 * relative:.1f} %", None, **limits)
        _show(line[2], maps[0, target], f"map {target}", colour, **limits)
    save_png(figure, png, dpi=100)


def _shown(result: Redundancy, wanted: list[int]) -> list[int]:
    """As many maps as there is room for, in order: those wanted, then the first live ones."""
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


def _made(maps: np.ndarray, source: int, target: int) -> np.ndarray:
    """The first image's target map as the best kernel makes it of the source map."""
    count, _, height, width = maps.shape
    every = np.unravel_index(np.arange(count * height * width), (count, height, width))
    given = maps[:, [source]]
    wanted = map_values(maps[:, [target]], every)
    kernels, constants, _ = fit_kernels(given, wanted, every, _SIZE, intercept=True)
    patches = neighbourhoods(given[:1], tuple(axis[: height * width] for axis in every), _SIZE)
    return (patches[0] @ kernels[0].ravel() + constants[0]).reshape(height, width)
