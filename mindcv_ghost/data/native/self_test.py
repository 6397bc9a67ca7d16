"""The test that a built library has to pass before it is used: its pixels against MindSpore's.

``python -m mindcv_ghost.data.native.self_test LIBRARY`` runs in a process of its own, because a
library that was built for another processor may crash. Exit status 0 if all is right.

Evaluation has to agree bit for bit: odd and even sizes, each chroma subsampling, reduced and
enlarged. For training an image has to come out, finite, and a file that is cut must do no harm. An
image in memory has to come out as one of its padded crops, flipped.
"""

from __future__ import annotations

import ctypes
import io
import sys

import numpy as np
from PIL import Image

from mindcv_ghost.data.native.array_images import ARRAY_SETTINGS
from mindcv_ghost.data.native.images import ITEM, SETTINGS
from mindcv_ghost.data.native.library import open_library
from mindcv_ghost.data.transforms.factory import eval_transforms
from mindcv_ghost.data.transforms.settings import Augment

__all__ = ["check_library", "decode_files"]

# width, height, image_resize, crop_pct, options of the encoder
_CASES = (
    (500, 375, 224, 0.875, {"quality": 95}),
    (333, 501, 160, 0.9, {"quality": 80, "subsampling": 1}),
    (97, 61, 128, 0.5, {"quality": 90, "subsampling": 0}),
    (640, 512, 192, 0.75, {"quality": 75}),
    (257, 255, 64, 1.0, {"quality": 85, "progressive": True}),
    (130, 300, 96, 0.6, {"quality": 85, "restart_marker_blocks": 5}),
)


def decode_files(
    library: ctypes.CDLL, settings: np.ndarray, files: list[bytes], seeds: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Make images of encoded files by the library.

    Args:
        library: the library.
        settings: one ``SETTINGS`` record.
        files: N encoded images.
        seeds: N random seeds; 0, 1, ... by default.

    Returns:
        Status (N,), 0 where an image was made, and images, float32 (N, 3, H, W).
    """
    items = np.zeros(len(files), ITEM)
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    items["data"] = [array.ctypes.data for array in arrays]
    items["bytes"] = [len(array) for array in arrays]
    items["position"], items["cache_key"] = np.arange(len(files)), -1
    items["seed"] = np.arange(len(files)) if seeds is None else seeds
    height, width = int(settings["height"][0]), int(settings["width"][0])
    out = np.zeros((len(files), 3, height, width), np.float32)
    paths = (ctypes.c_char_p * len(files))()
    library.loader_images(
        settings.ctypes.data, paths, items.ctypes.data, len(files), out.ctypes.data, None
    )
    return items["status"], out


def check_library(library: ctypes.CDLL) -> list[str]:
    """List what is wrong with a library; empty if it passes."""
    problems = []
    for width, height, size, crop_pct, options in _CASES:
        file = _photograph(width, height, options)
        augment = Augment(image_resize=size, crop_pct=crop_pct)
        expected = np.frombuffer(file, np.uint8)
        for op in eval_transforms("imagenet", augment):
            expected = op(expected)
        settings = np.zeros(1, SETTINGS)
        settings["height"] = settings["width"] = size
        settings["resize_height"] = int(size / crop_pct)
        settings["mean"], settings["std"] = augment.mean, augment.std
        status, found = decode_files(library, settings, [file])
        name = f"{width} x {height} to {size}"
        if status[0] or not np.array_equal(found[0], expected):
            problems.append(f"evaluation, {name}: the pixels differ from MindSpore's")
        settings["training"] = 1
        settings["scale"] = settings["ratio"] = (1, 1)
        settings["hflip"] = 1
        status, found = decode_files(library, settings, [file])
        if status[0] or not np.isfinite(found).all():
            problems.append(f"training, {name}: no image")
        if decode_files(library, settings, [file[: len(file) // 3]])[0][0] not in (0, 1):
            problems.append(f"training, {name}: a cut file gave an unknown status")
    return problems + _array_problems(library)


def _array_problems(library: ctypes.CDLL) -> list[str]:
    """Compare images in memory with all crops of the padded image, flipped."""
    random = np.random.RandomState(0)
    image = random.randint(0, 256, (5, 7, 3)).astype(np.uint8)  # rows, columns, channels
    table = random.normal(size=(3, 256)).astype(np.float32)
    settings = np.zeros(1, ARRAY_SETTINGS)
    settings["channels"], settings["height"], settings["width"] = 3, 5, 7
    settings["padding"], settings["strides"], settings["hflip"] = 2, (1, 21, 3), 1
    seeds, out = np.arange(40, dtype=np.uint64), np.zeros((40, 3, 5, 7), np.float32)
    images = np.full(40, image.ctypes.data, np.uint64)
    arrays = (settings, images, seeds)
    library.loader_arrays(
        *(each.ctypes.data for each in arrays), 40, table.ctypes.data, out.ctypes.data
    )
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    values = np.stack([table[c][padded[:, :, c]] for c in range(3)])
    crops = {
        values[:, top : top + 5, left : left + 7][:, :, ::-1].tobytes()
        for top in range(5)
        for left in range(5)
    }
    found = {each.tobytes() for each in out}
    return [] if found <= crops and len(found) > 10 else ["images in memory: no padded crops"]


def _photograph(width: int, height: int, options: dict) -> bytes:
    random = np.random.RandomState(width)
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    pixels = np.stack([across * 25, down * 30, np.abs(across - down) * 28], 2)
    pixels = pixels + random.normal(0, 15, pixels.shape)
    out = io.BytesIO()
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(out, "JPEG", **options)
    return out.getvalue()


if __name__ == "__main__":
    found = check_library(open_library(sys.argv[1]))
    print("\n".join(found))
    sys.exit(1 if found else 0)
