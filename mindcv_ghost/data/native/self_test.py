"""The library against MindSpore's own operations: what it has to pass before it is used.

``python -m mindcv_ghost.data.native.self_test LIBRARY`` in a process of its own, because a library
that was built for another processor may end the process. Exit status 0 if all is right.

Evaluation has to agree in every bit, on odd and even sizes, all ways of sampling colours, reduced
and enlarged. Random crops have to be parts of the image, scaled in the same way.
"""

from __future__ import annotations

import ctypes
import io
import sys

import numpy as np
from PIL import Image

from mindcv_ghost.data.native.images import ITEM, SETTINGS
from mindcv_ghost.data.native.library import open_library
from mindcv_ghost.data.transforms.transforms import Augment, eval_transforms

__all__ = ["check_library", "made"]

# width, height, what comes out, crop_pct, how it is saved
_CASES = (
    (500, 375, 224, 0.875, {"quality": 95}),
    (333, 501, 160, 0.9, {"quality": 80, "subsampling": 1}),
    (97, 61, 128, 0.5, {"quality": 90, "subsampling": 0}),
    (640, 512, 192, 0.75, {"quality": 75}),
    (257, 255, 64, 1.0, {"quality": 85, "progressive": True}),
    (130, 300, 96, 0.6, {"quality": 85, "restart_marker_blocks": 5}),
)


def made(
    library: ctypes.CDLL, settings: np.ndarray, files: list[bytes], seeds: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the library makes of encoded images: status (N,) and float32 (N, 3, H, W)."""
    items = np.zeros(len(files), ITEM)
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    items["data"] = [array.ctypes.data for array in arrays]
    items["bytes"] = [len(array) for array in arrays]
    items["place"], items["kept"] = np.arange(len(files)), -1
    items["seed"] = np.arange(len(files)) if seeds is None else seeds
    out = np.zeros((len(files), 3, int(settings["height"][0]), int(settings["width"][0])))
    out = out.astype(np.float32)
    paths = (ctypes.c_char_p * len(files))()
    library.loader_images(
        settings.ctypes.data, paths, items.ctypes.data, len(files), out.ctypes.data, None
    )
    return items["status"], out


def check_library(library: ctypes.CDLL) -> list[str]:
    """Every difference found, as a line; empty if the library is right."""
    problems = []
    for width, height, size, crop_pct, options in _CASES:
        file = _photograph(width, height, options)
        augment = Augment(image_resize=size, crop_pct=crop_pct)
        expected = np.frombuffer(file, np.uint8)
        for op in eval_transforms("imagenet", augment):
            expected = op(expected)
        settings = np.zeros(1, SETTINGS)
        settings["height"] = settings["width"] = size
        settings["scaled"] = int(size / crop_pct)
        settings["mean"], settings["deviation"] = augment.mean, augment.std
        status, found = made(library, settings, [file])
        name = f"{width} x {height} to {size}"
        if status[0] or not np.array_equal(found[0], expected):
            problems.append(f"evaluation, {name}: other pixels than MindSpore's")
        settings["training"], settings["scale"], settings["ratio"] = 1, (1, 1), (1, 1)
        settings["flip"] = 1
        status, found = made(library, settings, [file])
        if status[0] or not np.isfinite(found).all():
            problems.append(f"training, {name}: no image")
        if made(library, settings, [file[: len(file) // 3]])[0][0] not in (0, 1):
            problems.append(f"training, {name}: half a file")
    return problems


def _photograph(width: int, height: int, options: dict) -> bytes:
    draw = np.random.RandomState(width)
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    pixels = np.stack([across * 25, down * 30, np.abs(across - down) * 28], 2)
    pixels = pixels + draw.normal(0, 15, pixels.shape)
    out = io.BytesIO()
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(out, "JPEG", **options)
    return out.getvalue()


if __name__ == "__main__":
    found = check_library(open_library(sys.argv[1]))
    print("\n".join(found))
    sys.exit(1 if found else 0)
