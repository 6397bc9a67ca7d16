"""A picture becomes a network's input, by the very arithmetic of validation, in NumPy.

The steps are those of ``data/transforms`` (``eval_transforms``): resize, crop the centre, turn grey
for a network with one channel, normalise. Bytes are the same bit for bit
(``tests/inference/test_preprocessing.py``). Floats are, too, for folders of images; for CIFAR and
MNIST, whose pixels MindCV scales to 0 to 1 before it normalises them, the last bit may differ.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image

from mindcv_ghost.data.sets.image_file import MAX_ASPECT, BadImage, as_rgb, decode, read_file
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.resize import INTERPOLATIONS, Window, resize

__all__ = ["Picture", "check_preprocessing", "preprocess", "to_pixels"]

Picture = Union[str, Path, bytes, Image.Image, np.ndarray]
"""A file, the content of one, a picture of Pillow's, or uint8 (H, W, 3), (H, W, 1) or (H, W)."""

_GREY = np.array([9798, 19235, 3735], np.int32)  # OpenCV 4.11's weights of R, G and B, of 15 bits


def check_preprocessing(preprocessing: Preprocessing, path: str) -> None:
    """Raise if a description, which anybody may have written, can't be followed.

    Args:
        preprocessing: of an exported file.
        path: of the file, for the message.

    Raises:
        DataError: naming the value.
    """
    p = preprocessing
    resized = p.resize if isinstance(p.resize, tuple) else (p.resize,)
    sides = [p.height, p.width, *resized]
    legal = {
        "sizes": all(type(side) is int and 0 < side < 2**15 for side in sides),
        "resize": len(resized) in (1, 2),
        f"interpolation {p.interpolation!r}": p.interpolation in INTERPOLATIONS,
        f"channels {p.channels!r}": p.channels in (1, 3),
        "mean and std": all(
            isinstance(values, tuple)
            and len(values) == p.channels
            and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
            for values in (p.mean, p.std)
        ),
    }
    wrong = [what for what, is_legal in legal.items() if not is_legal]
    if not wrong and not all(p.std):
        wrong = ["std 0"]
    if wrong:
        raise DataError(
            f"{path}: its preprocessing can't be followed: {', '.join(wrong)}. "
            f"`mindcv-ghost export` writes legal ones."
        )


def to_pixels(picture: Picture) -> np.ndarray:
    """Read any kind of picture, with the checks and limits of training.

    Transparency is dropped and EXIF orientation ignored, as in training.

    Args:
        picture: see :data:`Picture`.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        DataError: if it can't be read or decoded, or is no picture.
    """
    if isinstance(picture, np.ndarray):
        return _array_to_pixels(picture)
    name = f"{printable(picture)}: " if isinstance(picture, (str, Path)) else ""
    try:
        if isinstance(picture, (str, Path)):
            return decode(read_file(str(picture)))
        if isinstance(picture, bytes):
            return decode(picture)
        if isinstance(picture, Image.Image):
            return np.asarray(as_rgb(picture))
    except BadImage as problem:
        raise DataError(f"{name}{problem}") from None
    except OSError as problem:
        raise DataError(f"{name}can't be read: {problem.strerror or problem}") from None
    except MemoryError:
        raise DataError(f"{name}can't be decoded: out of memory") from None
    raise DataError(
        f"{type(picture).__name__} isn't a kind of image that is read: give a path, the bytes of a "
        "file, an image of Pillow's, or a uint8 array (H, W, 3) or (H, W)"
    )


def _array_to_pixels(array: np.ndarray) -> np.ndarray:
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    fits = grey or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not fits or not array.size:
        raise DataError(
            f"an array of {array.dtype} {array.shape} isn't an image: give uint8 (H, W, 3), RGB, "
            "or (H, W), grey"
        )
    if grey:
        array = np.broadcast_to(array.reshape(*array.shape[:2], 1), (*array.shape[:2], 3))
    return array


def preprocess(image: Picture, preprocessing: Preprocessing) -> np.ndarray:
    """Make a picture the network's input: the very pixels of validation.

    Args:
        image: see :data:`Picture`.
        preprocessing: of the exported file.

    Returns:
        float32 (channels, height, width).

    Raises:
        DataError: if the picture can't be read or decoded.
    """
    pixels = _centre(to_pixels(image), preprocessing)
    if preprocessing.channels == 1:
        pixels = _to_grey(pixels)
    shape = (preprocessing.channels, 1, 1)
    mean = np.array(preprocessing.mean, np.float32).reshape(shape)
    std = np.array(preprocessing.std, np.float32).reshape(shape)
    return (np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) - mean) / std


def _to_grey(pixels: np.ndarray) -> np.ndarray:
    """Weigh the colours as OpenCV's ``cvtColor`` does: uint8 (H, W, 3) to (H, W, 1)."""
    return (pixels @ _GREY + (1 << 14) >> 15).astype(np.uint8)[:, :, np.newaxis]


def _centre(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resize, and crop the centre: uint8 (height, width, 3)."""
    height, width = preprocessing.height, preprocessing.width
    if isinstance(preprocessing.resize, tuple):
        high, wide = preprocessing.resize
    else:
        image = _without_ends(image)
        high, wide = _by_short_side(image.shape[0], image.shape[1], preprocessing.resize)
    window = Window(
        max(0, high - height) // 2, max(0, wide - width) // 2, min(high, height), min(wide, width)
    )
    part = resize(image, high, wide, preprocessing.interpolation, window)
    if part.shape[:2] == (height, width):
        return part
    # crop_pct above 1: MindSpore's CenterCrop adds a black border, the odd line above and left.
    down, across = height - part.shape[0], width - part.shape[1]
    top, left = -(-down // 2), -(-across // 2)
    return np.pad(part, ((top, down - top), (left, across - left), (0, 0)))


def _by_short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the short side given, in float32 as MindSpore's ``Resize``."""
    high, wide = np.float32(height), np.float32(width)
    if height < width:
        return side, int(wide / high * np.float32(side))
    return int(high / wide * np.float32(side)), side


def _without_ends(image: np.ndarray) -> np.ndarray:
    """Cut the ends off a ribbon, as ``plan_for`` in ``data/native/cpp/entry.cc`` does."""
    height, width = image.shape[:2]
    down = max(0, height - MAX_ASPECT * width) // 2
    across = max(0, width - MAX_ASPECT * height) // 2
    return image[down : height - down, across : width - across]
