"""Read pictures from files into the array that a network takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindcv_ghost.errors import ConfigError, DataError

__all__ = ["add_picture_arguments", "check_picture_arguments", "read_images"]

# ImageNet's, of pixels from 0 to 255, as in MindCV's recipes.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--image_size``, ``--mean`` and ``--std`` to a command line."""
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side (224)")
    numbers: dict[str, Any] = {"nargs": "+", "type": float, "metavar": "NUMBER"}
    recipes = "a number for each channel, as in the recipe of the network's training (ImageNet's)"
    parser.add_argument("--mean", help=f"mean of the pixels, 0 to 255: {recipes}", **numbers)
    parser.add_argument("--std", help=f"their standard deviation: {recipes}", **numbers)


def check_picture_arguments(options: argparse.Namespace) -> None:
    """Check what :func:`add_picture_arguments` added.

    Raises:
        ConfigError: if a value isn't legal.
    """
    if options.image_size < 8:
        raise ConfigError(f"--image_size is {options.image_size}; it must be at least 8")
    for name, least in (("mean", 0.0), ("std", sys.float_info.min)):
        values = getattr(options, name)
        if values is None:
            continue
        if len(values) != options.in_channels:
            raise ConfigError(
                f"--{name} has {len(values)} numbers, but --in_channels is {options.in_channels}: "
                "give one for each channel"
            )
        if not all(least <= value < float("inf") for value in values):
            legal = "numbers of at least 0" if name == "mean" else "numbers above 0"
            raise ConfigError(f"--{name} is {' '.join(map(str, values))}; give {legal}")


def read_images(
    files: Sequence[str],
    size: int,
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> np.ndarray:
    """Read pictures, resize their shorter side, crop the centre and normalise.

    Args:
        files: pictures; if there are none, the two photographs that scikit-learn includes.
        size: side of the crop in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: of the pixels (0 to 255) by channel; by default ImageNet's, of all channels if grey.
        std: their standard deviation.

    Returns:
        An array of shape (N, channels, size, size), normalised.

    Raises:
        DataError: if a file is missing or isn't a picture, or scikit-learn isn't installed.
        ConfigError: if ``channels`` is neither 1 nor 3.
    """
    from PIL import Image

    if channels not in (1, 3):
        raise ConfigError(f"--in_channels is {channels}; pictures have 1 or 3 channels")
    pictures = []
    for file in files or _sample_files():
        try:
            with Image.open(file) as opened:
                picture = opened.convert("RGB" if channels == 3 else "L")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise DataError(f"--image {file} can't be read as a picture: {problem}") from None
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), Image.BICUBIC)
        pictures.append(np.asarray(picture.crop((left, top, left + size, top + size))))
    images = np.stack(pictures).astype(np.float32).reshape(-1, size, size, channels)
    centre, spread = (
        np.array(_of_channels(usual, channels) if given is None else given, np.float32)
        for given, usual in ((mean, _MEAN), (std, _STD))
    )
    return np.ascontiguousarray(((images - centre) / spread).transpose(0, 3, 1, 2))


def _of_channels(values: Sequence[float], channels: int) -> Sequence[float]:
    return values if channels == len(values) else [sum(values) / len(values)]


def _sample_files() -> list[str]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise DataError(
            "without --image, the pictures come from scikit-learn, which isn't installed: give "
            "--image FILE, or pip install scikit-learn"
        ) from None
    return list(load_sample_images().filenames)
