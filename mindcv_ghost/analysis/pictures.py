"""Read pictures from files into the array that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindcv_ghost.errors import ConfigError, DataError

__all__ = ["read_images"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_images(files: Sequence[str], size: int, channels: int) -> np.ndarray:
    """Read pictures, resize their shorter side, crop the centre and normalise.

    Args:
        files: pictures; if there are none, the two photographs that scikit-learn includes.
        size: side of the crop in pixels.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        An array of shape (N, channels, size, size), normalised with ImageNet's mean and deviation.

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
    images = np.stack(pictures).astype(np.float32).reshape(-1, size, size, channels) / 255
    mean, std = np.array(_MEAN, np.float32), np.array(_STD, np.float32)
    if channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2))


def _sample_files() -> list[str]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise DataError(
            "without --image, the pictures come from scikit-learn, which isn't installed: give "
            "--image FILE, or pip install scikit-learn"
        ) from None
    return list(load_sample_images().filenames)
