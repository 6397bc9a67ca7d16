"""Draw the Ghost module beside the convolution that it replaces (the model page's figure).

    python -m tools.pages.figures configs/ghostnet/ghost_module.png

The feature maps in it are computed: a picture is filtered by four primary kernels, and each ghost
map is an intrinsic map filtered by a 3x3 kernel, twice.
Source: arXiv 1911.11907, section 3.1.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report.plots import BLUE, GREY, ORANGE, new_figure, save_png

__all__ = ["draw_ghost_module", "main"]

INK = "#1A1A1A"
# Lengths are in inches.
_TILE = 0.62  # side of a map
_STEP = 0.72  # from a map of a column to the next
_MIDDLE = 3.95  # height of a column's centre

# 3x3 kernels. The primary ones find different features; the cheap ones vary these slightly.
_PRIMARY = (
    ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
    ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    ((1, 2, 1), (2, 4, 2), (1, 2, 1)),
)
_CHEAP = (
    ((1, 2, 1), (2, 4, 2), (1, 2, 1)),
    ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((0, 1, 0), (1, 4, 1), (0, 1, 0)),
    ((-1, -1, 0), (-1, 4, 1), (0, 1, 1)),
)


def draw_ghost_module(png: str) -> None:
    """Write the figure.

    Args:
        png: the picture's path.

    Raises:
        ReportError: if matplotlib isn't installed.
    """
    figure = new_figure(13.5, 7.3)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 13.5), ylim=(0, 7.3))
    axes.axis("off")
    channels, intrinsic, ghosts = _maps()
    _draw_convolution(axes, channels, intrinsic + ghosts)
    axes.plot([4.75, 4.75], [0.1, 7.15], color="#C8C8C8", lw=1)
    _draw_ghost(axes, channels, intrinsic, ghosts)
    save_png(figure, png, dpi=110)


def _draw_convolution(axes: Any, channels: list, maps: list) -> None:
    axes.text(0.3, 6.95, "Convolution", size=18, weight="bold", color=INK, va="center")
    inputs = _column(axes, 0.4, channels, GREY, "input", "c maps")
    outputs = _column(axes, 3.5, maps, BLUE, "output", "n maps")
    _connect_all(axes, inputs, outputs)
    _label(axes, 1.5, 6.25, "k×k, each output map\nfrom all input maps")
    axes.text(2.25, 0.22, "weights:  n · c · k²", size=14, color=INK, ha="center", va="center")


def _draw_ghost(axes: Any, channels: list, intrinsic: list, ghosts: list) -> None:
    axes.text(5.05, 6.95, "Ghost module", size=18, weight="bold", color=INK, va="center")
    colours = [BLUE] * len(intrinsic) + [ORANGE] * len(ghosts)
    inputs = _column(axes, 5.15, channels, GREY, "input", "c maps")
    middle = _column(axes, 7.75, intrinsic, BLUE, "intrinsic", "n/s maps")
    outputs = _column(axes, 11.45, intrinsic + ghosts, colours, "concatenated", "n maps")
    _connect_all(axes, inputs, middle)
    for i, (_, y) in enumerate(middle):
        start = (7.75 + _TILE, y)
        cheap = outputs[len(intrinsic) + i]
        _arrow(axes, start, outputs[i], BLUE)
        _arrow(axes, start, cheap, ORANGE)
        share = 0.625  # between two crossings of the lines, which are at 0.25, 0.5 and 0.75
        x, y = (a + (b - a) * share for a, b in zip(start, cheap))
        box = {"boxstyle": "circle,pad=0.16", "fc": "white", "ec": ORANGE, "lw": 1.3}
        axes.text(x, y, f"Φ$_{i + 1}$", size=12, color=INK, ha="center", va="center", bbox=box,
                  zorder=5)  # fmt: skip
    _label(axes, 6.6, 6.25, "primary convolution:\nk×k, but fewer maps")
    _label(axes, 9.5, 6.3, "identity", BLUE)
    _label(axes, 9.35, 1.3, "cheap operations Φ:\nd×d, each on one map\n(depthwise)", ORANGE)
    _bracket(axes, outputs[0][1], outputs[3][1], "n/s\nintrinsic\nmaps", BLUE)
    _bracket(axes, outputs[4][1], outputs[7][1], "(s−1)·n/s\nghost\nmaps", ORANGE)
    cost = "weights:  n/s · c · k²  +  (s−1) · n/s · d²,  about 1/s of the convolution's"
    axes.text(9.1, 0.22, cost, size=14, color=INK, ha="center", va="center")


def _maps() -> tuple[list, list, list]:
    """Compute the feature maps: three input channels, four intrinsic and four ghost maps."""
    picture = _ghost_picture(56)
    channels = [_scale_to_one(picture * a + b) for a, b in ((0.9, 0.0), (0.7, 0.15), (0.5, 0.3))]
    intrinsic = [_scale_to_one(np.abs(_filter(picture, kernel))) for kernel in _PRIMARY]
    ghosts = [
        _scale_to_one(np.abs(_filter(_filter(one, kernel), kernel)))
        for one, kernel in zip(intrinsic, _CHEAP)
    ]
    return channels, intrinsic, ghosts


def _ghost_picture(size: int) -> np.ndarray:
    """Return the picture of a ghost, shaded from 1 at its top, on a background of 0."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1)
    head = (x - 0.5) ** 2 + (y - 0.42) ** 2 < 0.3**2
    hem = 0.84 + 0.05 * np.cos((x - 0.2) / 0.6 * 6 * np.pi)
    body = (np.abs(x - 0.5) < 0.3) & (y >= 0.42) & (y < hem)
    picture = np.where(head | body, 1.0 - 0.5 * y, 0.0)
    for eye in (0.39, 0.61):
        picture[((x - eye) / 0.06) ** 2 + ((y - 0.4) / 0.09) ** 2 < 1] = 0.0
    return picture


def _filter(picture: np.ndarray, kernel: tuple) -> np.ndarray:
    padded = np.pad(picture, 1, mode="edge")
    height, width = picture.shape
    return sum(
        weight * padded[i : i + height, j : j + width]
        for i, row in enumerate(kernel)
        for j, weight in enumerate(row)
    )


def _scale_to_one(picture: np.ndarray) -> np.ndarray:
    return picture / max(float(picture.max()), 1e-9)


def _column(
    axes: Any, x: float, maps: list, colours: str | list[str], name: str, count: str
) -> list[tuple[float, float]]:
    """Draw a column of maps with its label; return the middle of each map's left edge."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    colours = [colours] * len(maps) if isinstance(colours, str) else colours
    top = _MIDDLE + _STEP * (len(maps) - 1) / 2
    ends = []
    for i, (one, colour) in enumerate(zip(maps, colours)):
        y = top - i * _STEP
        shades = LinearSegmentedColormap.from_list(colour, ["white", colour])
        box = (x, x + _TILE, y - _TILE / 2, y + _TILE / 2)
        axes.imshow(one, cmap=shades, extent=box, vmin=0, vmax=1.05, aspect="auto", zorder=3)
        frame = Rectangle((x, y - _TILE / 2), _TILE, _TILE, fill=False, ec=colour, lw=1.4, zorder=4)
        axes.add_patch(frame)
        ends.append((x, y))
    _label(axes, x + _TILE / 2, ends[-1][1] - _TILE / 2 - 0.33, f"{name}\n{count}")
    return ends


def _connect_all(axes: Any, inputs: list, outputs: list) -> None:
    for x, y in inputs:
        for end_x, end_y in outputs:
            axes.plot([x + _TILE, end_x], [y, end_y], color="#8FA3B5", lw=0.7, zorder=2)


def _arrow(axes: Any, start: tuple, end: tuple, colour: str) -> None:
    style = "-|>,head_width=0.22,head_length=0.45"
    props = {"arrowstyle": style, "color": colour, "lw": 1.4, "shrinkA": 1, "shrinkB": 1}
    axes.annotate("", xy=end, xytext=start, arrowprops=props, zorder=2)


def _label(axes: Any, x: float, y: float, text: str, colour: str = INK) -> None:
    axes.text(x, y, text, size=13, color=colour, ha="center", va="center", linespacing=1.3)


def _bracket(axes: Any, top: float, bottom: float, text: str, colour: str) -> None:
    top, bottom, x = top + _TILE / 2, bottom - _TILE / 2, 11.45 + _TILE + 0.12
    axes.plot([x, x + 0.1, x + 0.1, x], [top, top, bottom, bottom], color=colour, lw=1.4)
    axes.text(x + 0.22, (top + bottom) / 2, text, size=13, color=colour, va="center",
              linespacing=1.3)  # fmt: skip


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Draw the figure from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.pages.figures")
    parser.add_argument("png", help="where the picture goes")
    draw_ghost_module(parser.parse_args(argv).png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
