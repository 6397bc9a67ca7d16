"""Resizing in NumPy, bit for bit that of MindSpore's operation."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore.dataset import vision

from mindcv_ghost.inference.resize import INTERPOLATIONS, Window, resize

# Height and width, before and after: smaller, larger, both, by whole numbers, from and to a pixel.
FIXED = [
    *(((40, 60), (20, 30)), ((40, 60), (20, 31)), ((41, 60), (20, 30)), ((60, 90), (20, 30))),
    *(((30, 40), (256, 341)), ((333, 500), (256, 384)), ((100, 20), (30, 90)), ((1, 1), (5, 7))),
    *(((1, 90), (3, 30)), ((90, 1), (40, 3)), ((7, 9), (1, 1)), ((50, 50), (50, 50))),
    *(((50, 64), (50, 32)), ((64, 50), (32, 50)), ((2, 3), (64, 65)), ((97, 61), (96, 60))),
]


def sizes(count: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    draw = np.random.default_rng(0)
    return FIXED + [tuple(map(tuple, draw.integers(1, 130, (2, 2)).tolist())) for _ in range(count)]


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_pixel_is_mindspores(interpolation):
    assert hasattr(vision.Inter, interpolation.upper())
    for seed, (before, after) in enumerate(sizes(60)):
        image = noise(before, seed)
        expected = vision.Resize(after, getattr(vision.Inter, interpolation.upper()))(image)
        found = resize(image, *after, interpolation, Window(0, 0, *after))
        assert np.array_equal(found, expected), (before, after)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_window_is_that_part_of_the_whole(interpolation):
    for seed, (before, (height, width)) in enumerate(sizes(20)):
        image = noise(before, seed)
        whole = resize(image, height, width, interpolation, Window(0, 0, height, width))
        top, left = height // 3, width // 4
        window = Window(top, left, height - 2 * top, width - 2 * left)
        part = resize(image, height, width, interpolation, window)
        assert np.array_equal(part, whole[top : height - top, left : width - left])


def test_the_interpolations_differ_so_that_equal_ones_are_no_accident():
    image = noise((90, 70), 0)
    results = [resize(image, 40, 30, name, Window(0, 0, 40, 30)) for name in INTERPOLATIONS]
    for k, one in enumerate(results):
        assert all((one != other).any() for other in results[:k])
