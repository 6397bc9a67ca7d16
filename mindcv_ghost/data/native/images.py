"""Images of a batch through the library: what is to be made, and one call for several of them."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence

import numpy as np

from mindcv_ghost.data.native.keep import Keep, keep_for
from mindcv_ghost.data.native.library import load
from mindcv_ghost.data.sets.image_file import BadImage, decode, jpeg_is_plain
from mindcv_ghost.data.sets.image_folder import FolderSource
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.seeded import SeededOp
from mindcv_ghost.data.transforms.transforms import Augment
from mindcv_ghost.native_build import Unavailable

__all__ = [
    "ITEM",
    "SETTINGS",
    "Images",
    "OneImage",
    "evaluation_settings",
    "native_images",
    "training_settings",
]

# As loader::Settings and loader::Item in cpp/entry.cc.
SETTINGS = np.dtype(
    [
        *((name, np.int32) for name in ("training", "height", "width", "scaled", "scaled_to")),
        ("bytes_out", np.int32),
        *((name, np.float64, 2) for name in ("scale", "ratio")),
        *((name, np.float64) for name in ("flip", "flip_vertical")),
        ("jitter", np.float64, 3),
        *((name, np.float32, 3) for name in ("mean", "deviation")),
    ],
    align=True,
)
ITEM = np.dtype(
    [
        *(("data", np.uint64), ("bytes", np.int64), ("seed", np.uint64)),
        *((name, np.int32) for name in ("height", "width", "place", "kept", "status", "unused")),
    ],
    align=True,
)


def training_settings(source: Source, augment: Augment) -> np.ndarray | str:
    """What the library is to make of a training image, or why it can't, in half a sentence."""
    problem = _common_problem(source, augment)
    jitter = augment.color_jitter or 0.0
    jitter = list(jitter) if isinstance(jitter, Sequence) else [float(jitter)] * 3
    if augment.auto_augment:
        jitter = [0.0] * 3  # it is one or the other, as in MindCV
    if len(jitter) > 3 and jitter[3]:
        problem = problem or "color_jitter changes hues"
    if augment.aug_splits not in (0, 1):
        problem = problem or f"aug_splits is {augment.aug_splits}"
    if problem:
        return problem
    settings = _settings(augment)
    settings["training"] = 1
    settings["scale"], settings["ratio"] = tuple(augment.scale), tuple(augment.ratio)
    settings["flip"], settings["flip_vertical"] = augment.hflip, augment.vflip
    settings["jitter"] = jitter[:3]
    return settings


def evaluation_settings(source: Source, augment: Augment) -> np.ndarray | str:
    """As :func:`training_settings`, for evaluation."""
    problem = _common_problem(source, augment)
    if not problem and not 0 < augment.crop_pct <= 1:
        problem = f"crop_pct is {augment.crop_pct}"
    if problem:
        return problem
    settings = _settings(augment)
    height, width = int(settings["height"][0]), int(settings["width"][0])
    if height == width:
        settings["scaled"] = math.floor(height / augment.crop_pct)
    else:
        settings["scaled"] = int(height / augment.crop_pct)
        settings["scaled_to"] = int(width / augment.crop_pct)
    return settings


def _common_problem(source: Source, augment: Augment) -> str:
    if not (isinstance(source, FolderSource) and source.kind == "imagenet"):
        return f"{source.kind} has no files to decode"
    if source.in_channels != 3:
        return "images are made grey"
    if augment.interpolation != "bilinear":
        return f"interpolation is {augment.interpolation}"
    return ""


def _settings(augment: Augment) -> np.ndarray:
    size = augment.image_resize
    height, width = size if isinstance(size, Sequence) else (size, size)
    settings = np.zeros(1, SETTINGS)
    settings["height"], settings["width"] = int(height), int(width)
    for name, values in (("mean", augment.mean), ("deviation", augment.std)):
        settings[name] = np.resize(np.array(values, np.float32), 3)
    return settings


class Images:
    """Makes images of a folder by the library, several a call and from several threads at once.

    Args:
        source: where they are.
        settings: of :func:`training_settings` or :func:`evaluation_settings`.
        middle: operations on bytes (H, W, C), before an image is normalised; those that aren't in
            Python are the library's.
        after: operations on floats (C, H, W), behind it; likewise.
        keep: memory for decoded images, or None.

    Attributes:
        black: what an image of zeros would come out as, float32 (3, 1, 1).
    """

    def __init__(
        self,
        source: FolderSource,
        settings: np.ndarray,
        middle: Sequence = (),
        after: Sequence = (),
        keep: Keep | None = None,
    ):
        self.source, self._library, self._keep = source, load(), keep
        self._middle = [op for op in middle if isinstance(op, SeededOp)]
        self._after = [op for op in after if isinstance(op, SeededOp)]
        self._settings = settings.copy()
        self._settings["bytes_out"] = bool(self._middle)
        self.height, self.width = int(settings["height"][0]), int(settings["width"][0])
        mean, deviation = settings["mean"][0], settings["deviation"][0]
        self.black = ((np.float32(0) - mean) / deviation).reshape(3, 1, 1)

    def empty(self, count: int) -> np.ndarray:
        """Memory for so many images, float32 (N, 3, H, W)."""
        return np.empty((count, 3, self.height, self.width), np.float32)

    def make(self, indices: np.ndarray, seeds: np.ndarray, out: np.ndarray) -> list[int]:
        """Make images of files.

        Args:
            indices: of the images.
            seeds: for what chance decides, one an image.
            out: float32 (N, 3, H, W), C-contiguous; is filled.

        Returns:
            Places in ``indices`` of the images that are still to be made by ``make_one``.
        """
        items = np.zeros(len(indices), ITEM)
        items["seed"], items["place"] = seeds.astype(np.uint64), np.arange(len(indices))
        items["kept"] = indices if self._keep else -1
        names = [os.fsencode(self.source.name_of(int(index))) for index in indices]
        paths = (ctypes.c_char_p * len(names))(*names)
        self._call(items, paths, out)
        return np.flatnonzero(items["status"]).tolist()

    def make_one(self, index: int, seed: int, out: np.ndarray) -> int:
        """Make an image that isn't a plain JPEG, or fails.

        Args:
            out: float32 (1, 3, H, W), C-contiguous; is filled.

        Returns:
            The label.

        Raises:
            DataError: if the file can't be read or decoded; the source's ``bad`` has the reason.
        """
        data, label = self.source.read(index)
        items = np.zeros(1, ITEM)
        items["seed"], items["kept"] = np.uint64(seed), index if self._keep else -1
        paths = (ctypes.c_char_p * 1)()
        try:
            if jpeg_is_plain(data):  # of a kind that the library doesn't see through by itself
                items["data"], items["bytes"] = _address(data), len(data)
                self._call(items, paths, out)
                if not items["status"][0]:
                    return label
            pixels = decode(data)
        except BadImage as problem:
            raise self.source.found_bad(index, str(problem)) from None
        items["data"], items["bytes"] = pixels.ctypes.data, pixels.nbytes
        items["height"], items["width"] = pixels.shape[:2]
        self._call(items, paths, out)
        if items["status"][0]:
            raise self.source.found_bad(index, "can't be decoded: out of memory")
        return label

    def _call(self, items: np.ndarray, paths: ctypes.Array, out: np.ndarray) -> None:
        """Have the library make items, with Python's operations around it if there are any."""
        keep = self._keep.handle if self._keep else None
        target = out
        if self._middle:
            target = np.empty((len(items), self.height, self.width, 3), np.uint8)
        address = self._settings.ctypes.data
        self._library.loader_images(
            address, paths, items.ctypes.data, len(items), target.ctypes.data, keep
        )
        if not (self._middle or self._after):
            return
        for k in np.flatnonzero(items["status"] == 0):
            seed, salt = int(items["seed"][k]), 0
            if self._middle:
                image = target[k]
                for op in self._middle:
                    salt += 16
                    image = op(image, seed ^ salt)
                image = np.ascontiguousarray(image, np.uint8)
                self._library.loader_planes(address, image.ctypes.data, out[k].ctypes.data)
            for op in self._after:
                salt += 16
                out[k] = op(out[k], seed ^ salt)


class OneImage:
    """A source for ``stream.read_or_replace`` whose images are made where they are wanted.

    Args:
        images: what makes them.
        seed: for what chance decides.
        out: float32 (1, 3, H, W); is filled with the last one asked for.
    """

    def __init__(self, images: Images, seed: int, out: np.ndarray):
        self._images, self._seed, self._out = images, seed, out
        self.on_bad_image = images.source.on_bad_image

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._out, self._images.make_one(index, self._seed, self._out)


def native_images(
    source: Source,
    settings: np.ndarray | str,
    middle: Sequence = (),
    after: Sequence = (),
    *,
    cache_mb: int,
) -> tuple[Images | None, str]:
    """What makes a loader's images, or None where MindSpore has to, and a line for the log."""
    if isinstance(settings, str):
        return None, f"images by MindSpore's pipeline: {settings}"
    try:
        load()
    except Unavailable as reason:
        return None, f"images by MindSpore's pipeline: {reason}"
    keep = keep_for(source, cache_mb)
    line = "images by our own C++ with libjpeg-turbo" + (", kept once decoded" if keep else "")
    return Images(source, settings, middle, after, keep), line


def _address(data: bytes) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data
