"""Resizing as validation does it, in NumPy: the arithmetic of OpenCV 4.11, which MindSpore calls.

OpenCV computes along the rows first, then along the columns. Bilinear and bicubic weights are
integers of 11 bits; the sources are named at each function (``modules/imgproc/src/resize.cpp``).
There is no antialiasing, except in "area" and in "pilcubic", which is Pillow's bicubic. Only the
pixels of the window that is asked for are computed.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np
from PIL import Image

__all__ = ["INTERPOLATIONS", "Window", "resize"]

_ONE = 2048  # a weight of 1


class Window(NamedTuple):
    """The part of a resized picture that is wanted, in pixels."""

    top: int
    left: int
    height: int
    width: int


def resize(image: np.ndarray, height: int, width: int, by: str, window: Window) -> np.ndarray:
    """Resize a picture and return a part of the result.

    Args:
        image: uint8 (H, W, C).
        height: of the whole resized picture.
        width: likewise.
        by: a name in :data:`INTERPOLATIONS`.
        window: the part to return.

    Returns:
        uint8 (window.height, window.width, C).
    """
    if image.shape[:2] == (height, width):
        top, left = window.top, window.left
        return image[top : top + window.height, left : left + window.width]
    return _METHODS[by](image, height, width, window)


# Size, resized size and output pixels -> where these fall: input pixel, and fraction of one.
_Place = Callable[[int, int, np.ndarray], "tuple[np.ndarray, np.ndarray]"]


class _Taps(NamedTuple):
    """Which input pixels an output line is the weighted sum of."""

    pixel: np.ndarray  # (outputs, taps)
    weight: np.ndarray  # (outputs, taps)


def _bilinear(image: np.ndarray, height: int, width: int, window: Window) -> np.ndarray:
    if image.shape[:2] == (2 * height, 2 * width):
        return _half(image, window)
    return _two_taps(image, height, width, window, _middle)


def _half(image: np.ndarray, window: Window) -> np.ndarray:
    """Average four pixels: bilinear and area at exactly half the size."""
    top, left = 2 * window.top, 2 * window.left
    part = image[top : top + 2 * window.height, left : left + 2 * window.width].astype(np.int32)
    rows = part[0::2] + part[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)


def _middle(size: int, resized: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the middle of each output pixel falls."""
    scale = 1.0 / (resized / size)
    place = ((at + 0.5) * scale - 0.5).astype(np.float32)
    index = np.floor(place).astype(np.int64)
    return index, place - index.astype(np.float32)


def _enlarged_area(size: int, resized: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for "area" where the picture grows (``area_mode`` in OpenCV)."""
    inverse = resized / size
    index = np.floor(at * (1.0 / inverse)).astype(np.int64)
    fraction = ((at + 1) - (index + 1) * inverse).astype(np.float32)
    return index, np.where(fraction <= 0, np.float32(0), fraction - np.floor(fraction))


def _two_taps(
    image: np.ndarray, height: int, width: int, window: Window, place: _Place
) -> np.ndarray:
    """``HResizeLinear`` and ``VResizeLinear`` for bytes."""
    columns = _linear_taps(image.shape[1], width, window.left, window.width, place, True)
    rows = _linear_taps(image.shape[0], height, window.top, window.height, place, False)
    lines, index = _along_rows(image, columns, rows)
    lines >>= 4
    first, second = rows.weight[:, 0, None, None], rows.weight[:, 1, None, None]
    sums = (lines[index[:, 0]] * first >> 16) + (lines[index[:, 1]] * second >> 16)
    return (sums + 2 >> 2).astype(np.uint8)


def _linear_taps(
    size: int, resized: int, first: int, count: int, place: _Place, columns: bool
) -> _Taps:
    """Beyond the ends columns have weight 1 on the last pixel, and rows keep both weights."""
    index, fraction = place(size, resized, np.arange(first, first + count))
    if columns:
        outside = (index < 0) | (index >= size - 1)
        index = np.clip(index, 0, size - 1)
        fraction = np.where(outside, np.float32(0), fraction)
    weight = np.stack([np.float32(1) - fraction, fraction], 1) * np.float32(_ONE)
    pixels = np.clip(np.stack([index, index + 1], 1), 0, size - 1)
    return _Taps(pixels, np.rint(weight).astype(np.int32))


def _along_rows(image: np.ndarray, columns: _Taps, rows: _Taps) -> tuple[np.ndarray, np.ndarray]:
    """Sum along the rows that are needed; return them (int32), and the rows' taps among them."""
    needed, place = np.unique(rows.pixel, return_inverse=True)
    part = image[needed]
    lines = np.zeros((len(needed), len(columns.pixel), image.shape[2]), np.int32)
    for index, weight in zip(columns.pixel.T, columns.weight.T):
        lines += part[:, index] * weight[:, None]
    return lines, place.reshape(rows.pixel.shape)


def _bicubic(image: np.ndarray, height: int, width: int, window: Window) -> np.ndarray:
    columns = _cubic_taps(image.shape[1], width, window.left, window.width)
    rows = _cubic_taps(image.shape[0], height, window.top, window.height)
    lines, index = _along_rows(image, columns, rows)
    # VResizeCubic: the vector units sum in float32 from the last tap to the first, eight values at
    # a time; what is left of a row is summed in integers.
    scale = np.float32(1 / _ONE**2)
    total = np.zeros((window.height, *lines.shape[1:]), np.float32)
    for k in (3, 2, 1, 0):
        weight = rows.weight[:, k].astype(np.float32) * scale
        total += lines[index[:, k]].astype(np.float32) * weight[:, None, None]
    result = np.clip(np.rint(total), 0, 255).astype(np.uint8)
    channels = image.shape[2]
    at = np.arange(window.left * channels, (window.left + window.width) * channels)
    rest = at.reshape(window.width, channels) >= width * channels // 8 * 8
    if rest.any():
        exact = sum(lines[index[:, k]] * rows.weight[:, k, None, None] for k in range(4))
        exact = np.clip(exact + (1 << 21) >> 22, 0, 255).astype(np.uint8)
        result = np.where(rest, exact, result)
    return result


def _cubic_taps(size: int, resized: int, first: int, count: int) -> _Taps:
    """``interpolateCubic``, in float32 as there."""
    index, x = _middle(size, resized, np.arange(first, first + count))
    a, one = np.float32(-0.75), np.float32(1)
    five, eight, four = a * np.float32(5), a * np.float32(8), a * np.float32(4)
    two, three = a + np.float32(2), a + np.float32(3)
    first_weight = ((a * (x + one) - five) * (x + one) + eight) * (x + one) - four
    second = (two * x - three) * x * x + one
    third = (two * (one - x) - three) * (one - x) * (one - x) + one
    weight = np.stack([first_weight, second, third, one - first_weight - second - third], 1)
    pixels = np.clip(index[:, None] + np.arange(-1, 3), 0, size - 1)
    return _Taps(pixels, np.rint(weight * np.float32(_ONE)).astype(np.int32))


def _nearest(image: np.ndarray, height: int, width: int, window: Window) -> np.ndarray:
    rows = _nearest_pixels(image.shape[0], height, window.top, window.height)
    return image[rows][:, _nearest_pixels(image.shape[1], width, window.left, window.width)]


def _nearest_pixels(size: int, resized: int, first: int, count: int) -> np.ndarray:
    """``resizeNN``."""
    at = np.floor(np.arange(first, first + count) * (1.0 / (resized / size))).astype(np.int64)
    return np.minimum(at, size - 1)


def _area(image: np.ndarray, height: int, width: int, window: Window) -> np.ndarray:
    down, across = 1.0 / (height / image.shape[0]), 1.0 / (width / image.shape[1])
    if down < 1 or across < 1:
        return _two_taps(image, height, width, window, _enlarged_area)
    if image.shape[:2] == (2 * height, 2 * width):
        return _half(image, window)
    if down == round(down) and across == round(across):
        return _blocks(image, int(down), int(across), window)
    columns = _area_taps(image.shape[1], width, window.left, window.width)
    rows = _area_taps(image.shape[0], height, window.top, window.height)
    needed, index = np.unique(rows.pixel, return_inverse=True)
    index, part = index.reshape(rows.pixel.shape), image[needed]
    lines = np.zeros((len(needed), window.width, image.shape[2]), np.float32)
    for column, weight in zip(columns.pixel.T, columns.weight.T):
        lines += part[:, column] * weight[:, None]
    total = np.zeros((window.height, *lines.shape[1:]), np.float32)
    for k in range(rows.pixel.shape[1]):
        total += lines[index[:, k]] * rows.weight[:, k, None, None]
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def _blocks(image: np.ndarray, down: int, across: int, window: Window) -> np.ndarray:
    """``resizeAreaFast``: each output pixel is the mean of a block of whole pixels."""
    top, left = window.top * down, window.left * across
    part = image[top : top + window.height * down, left : left + window.width * across]
    blocks = part.reshape(window.height, down, window.width, across, -1)
    mean = blocks.sum((1, 3), dtype=np.int32).astype(np.float32) * np.float32(1 / (down * across))
    return np.rint(mean).astype(np.uint8)


def _area_taps(size: int, resized: int, first: int, count: int) -> _Taps:
    """``computeResizeAreaTab``: the input pixels that an output pixel covers, whole or in part."""
    scale = 1.0 / (resized / size)
    start = np.arange(first, first + count) * scale
    end, cell = start + scale, np.minimum(scale, size - start)
    last = np.minimum(np.floor(end).astype(np.int64), size - 1)
    whole = np.minimum(np.ceil(start).astype(np.int64), last)
    taps = int((last - whole).max()) + 2
    index = whole[:, None] + np.arange(-1, taps - 1)
    weight = np.where(index < last[:, None], 1.0 / cell[:, None], 0.0)
    before, after = whole - start, end - last
    weight[:, 0] = np.where(before > 1e-3, before / cell, 0.0)
    part = np.where(after > 1e-3, np.minimum(np.minimum(after, 1.0), cell) / cell, 0.0)
    weight = np.where(index == last[:, None], part[:, None], weight)
    return _Taps(np.clip(index, 0, size - 1), weight.astype(np.float32))


def _pilcubic(image: np.ndarray, height: int, width: int, window: Window) -> np.ndarray:
    """Pillow's bicubic, which has antialiasing, along the rows first, as MindSpore's.

    Asked for both at once, Pillow 12 goes along the columns first where that is less work.
    """
    bicubic = Image.Resampling.BICUBIC
    picture = Image.fromarray(np.ascontiguousarray(image)).resize((width, len(image)), bicubic)
    resized = np.asarray(picture.resize((width, height), bicubic))
    top, left = window.top, window.left
    return resized[top : top + window.height, left : left + window.width]


_METHODS = {
    "bilinear": _bilinear,
    "bicubic": _bicubic,
    "nearest": _nearest,
    "area": _area,
    "pilcubic": _pilcubic,
}
INTERPOLATIONS = tuple(_METHODS)
"""Names of the ways to resize."""
