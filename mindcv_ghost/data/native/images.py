"""Images from file to normalised pixels by the C++ library, several a call."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np

from mindcv_ghost.data.native.decoded_cache import DecodedCache, cache_for
from mindcv_ghost.data.native.library import load
from mindcv_ghost.data.sets.image_file import BadImage, decode, jpeg_is_plain
from mindcv_ghost.data.sets.image_folder import FolderSource
from mindcv_ghost.data.sets.sources import Source
from mindcv_ghost.data.transforms.factory import TrainTransforms
from mindcv_ghost.data.transforms.seeded import SeededOp
from mindcv_ghost.data.transforms.settings import Augment
from mindcv_ghost.native_build import Unavailable

__all__ = ["ITEM", "SETTINGS", "ImageDecoder", "eval_decoder", "train_decoder"]

# loader::Settings and loader::Item of cpp/entry.cc.
SETTINGS = np.dtype(
    [
        ("training", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("resize_height", np.int32),
        ("resize_width", np.int32),
        ("bytes_out", np.int32),
        ("scale", np.float64, 2),
        ("ratio", np.float64, 2),
        ("hflip", np.float64),
        ("vflip", np.float64),
        ("jitter", np.float64, 3),
        ("mean", np.float32, 3),
        ("std", np.float32, 3),
    ],
    align=True,
)
ITEM = np.dtype(
    [
        ("data", np.uint64),
        ("bytes", np.int64),
        ("seed", np.uint64),
        ("height", np.int32),
        ("width", np.int32),
        ("position", np.int32),
        ("cache_key", np.int32),
        ("status", np.int32),
        ("padding", np.int32),
    ],
    align=True,
)


# MindSpore's operations whose work the library does, by ``settings``.
_COMPUTED = (
    "RandomCropDecodeResize",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "RandomColorAdjust",
    "HWC2CHW",
    "Normalize",
)


def train_decoder(
    source: Source, augment: Augment, transforms: TrainTransforms, *, cache_mb: int
) -> ImageDecoder:
    """Make the decoder for training images of a folder.

    Args:
        source: the training split.
        augment: settings of the transforms.
        transforms: built of ``augment``; their ``SeededOp`` objects are called from here.
        cache_mb: megabytes for decoded images.

    Raises:
        Unavailable: if the library can't make these images or can't be built, with the reason in
            half a sentence.
    """
    folder = _supported_folder(source, augment)
    value = augment.color_jitter or 0.0
    jitter = list(value) if isinstance(value, Sequence) else [float(value)] * 3
    if augment.auto_augment:
        jitter = [0.0] * 3  # MindCV applies one or the other
    if len(jitter) > 3 and jitter[3]:
        raise Unavailable("color_jitter changes hues")
    if augment.aug_splits not in (0, 1):
        raise Unavailable(f"aug_splits is {augment.aug_splits}")
    # A SeededOp is called on images that the library has made, which stands for `primary`.
    seeded = [op for op in (*transforms.secondary, *transforms.final) if isinstance(op, SeededOp)]
    for operation in (*transforms.primary, *transforms.secondary, *transforms.final):
        name = type(operation).__name__
        if name not in _COMPUTED and operation not in seeded:
            raise Unavailable(f"{name} isn't one of the native loader's operations")
    settings = _settings(augment)
    settings["training"] = 1
    settings["scale"], settings["ratio"] = tuple(augment.scale), tuple(augment.ratio)
    settings["hflip"], settings["vflip"] = augment.hflip, augment.vflip
    settings["jitter"] = jitter[:3]
    load()
    return ImageDecoder(
        folder, settings, transforms.secondary, transforms.final, cache_for(folder, cache_mb)
    )


def eval_decoder(source: Source, augment: Augment, *, cache_mb: int) -> ImageDecoder:
    """Make the decoder for evaluation images; see :func:`train_decoder`."""
    folder = _supported_folder(source, augment)
    if not 0 < augment.crop_pct <= 1:
        raise Unavailable(f"crop_pct is {augment.crop_pct}")
    settings, resize = _settings(augment), augment.eval_resize
    if isinstance(resize, int):
        settings["resize_height"] = resize
    else:
        settings["resize_height"], settings["resize_width"] = resize
    load()
    return ImageDecoder(folder, settings, cache=cache_for(folder, cache_mb))


def _supported_folder(source: Source, augment: Augment) -> FolderSource:
    if not (isinstance(source, FolderSource) and source.kind == "imagenet"):
        raise Unavailable(f"{source.kind} has no files to decode")
    if source.in_channels != 3:
        raise Unavailable("images are made grey")
    if augment.interpolation != "bilinear":
        raise Unavailable(f"interpolation is {augment.interpolation}")
    return source


def _settings(augment: Augment) -> np.ndarray:
    settings = np.zeros(1, SETTINGS)
    settings["height"], settings["width"] = augment.size
    settings["mean"] = np.resize(np.array(augment.mean, np.float32), 3)
    settings["std"] = np.resize(np.array(augment.std, np.float32), 3)
    return settings


class ImageDecoder:
    """Decodes, crops, augments and normalises images of a folder; threads may share it.

    Args:
        source: the images.
        settings: one ``SETTINGS`` record, shape (1,).
        secondary: operations on bytes (H, W, C) before normalisation. Only the ``SeededOp`` objects
            among them are called; the library does the work of the others.
        final: operations on floats (C, H, W) after normalisation; likewise.
        cache: memory for decoded images, or None.

    Attributes:
        black: the pixel that an image of zeros is normalised to, float32 (3, 1, 1).
    """

    def __init__(
        self,
        source: FolderSource,
        settings: np.ndarray,
        secondary: Sequence = (),
        final: Sequence = (),
        cache: DecodedCache | None = None,
    ) -> None:
        self.source, self.cache, self._library = source, cache, load()
        self._secondary = [op for op in secondary if isinstance(op, SeededOp)]
        self._final = [op for op in final if isinstance(op, SeededOp)]
        self._settings = settings.copy()
        self._settings["bytes_out"] = bool(self._secondary)
        self._height, self._width = int(settings["height"][0]), int(settings["width"][0])
        mean, std = settings["mean"][0], settings["std"][0]
        self.black = ((np.float32(0) - mean) / std).reshape(3, 1, 1)

    @property
    def info(self) -> str:
        """What makes the images, as a line for the log."""
        kept = "; decoded images stay in memory" if self.cache else ""
        return "native loader (libjpeg-turbo)" + kept

    def allocate(self, count: int) -> np.ndarray:
        """Return uninitialised memory for images, float32 (count, 3, H, W)."""
        return np.empty((count, 3, self._height, self._width), np.float32)

    def decode_batch(self, indices: np.ndarray, seeds: np.ndarray, out: np.ndarray) -> list[int]:
        """Make images of the files that the library can check and decode by itself.

        Args:
            indices: of the images, shape (N,).
            seeds: random seeds, shape (N,).
            out: float32 (N, 3, H, W), C-contiguous; is filled.

        Returns:
            Positions in ``indices`` of the other images, which ``decode_one`` has to make.
        """
        items = np.zeros(len(indices), ITEM)
        items["seed"], items["position"] = seeds.astype(np.uint64), np.arange(len(indices))
        items["cache_key"] = indices if self.cache else -1
        names = [os.fsencode(self.source.name_of(int(index))) for index in indices]
        paths = (ctypes.c_char_p * len(names))(*names)
        self._call(items, paths, out)
        return np.flatnonzero(items["status"]).tolist()

    def decode_one(self, index: int, seed: int, out: np.ndarray) -> int:
        """Make any image, after the full check in Python.

        Args:
            index: of the image.
            seed: random seed.
            out: float32 (1, 3, H, W), C-contiguous; is filled.

        Returns:
            The label.

        Raises:
            DataError: if the file can't be read or decoded; the source's ``bad`` has the reason.
        """
        data, label = self.source.read(index)
        items = np.zeros(1, ITEM)
        items["seed"], items["cache_key"] = np.uint64(seed), index if self.cache else -1
        paths = (ctypes.c_char_p * 1)()
        try:
            if jpeg_is_plain(data):  # of a kind that the library's own check doesn't accept
                items["data"] = np.frombuffer(data, np.uint8).ctypes.data
                items["bytes"] = len(data)
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
        """Call the library, and the operations in Python on what it made."""
        cache = self.cache.handle if self.cache else None
        target = out
        if self._secondary:
            target = np.empty((len(items), self._height, self._width, 3), np.uint8)
        settings = self._settings.ctypes.data
        self._library.loader_images(
            settings, paths, items.ctypes.data, len(items), target.ctypes.data, cache
        )
        if not (self._secondary or self._final):
            return
        for k in np.flatnonzero(items["status"] == 0):
            seed, salt = int(items["seed"][k]), 0
            if self._secondary:
                image = target[k]
                for op in self._secondary:
                    salt += 16
                    image = op(image, seed ^ salt)
                image = np.ascontiguousarray(image, np.uint8)
                self._library.loader_normalize(settings, image.ctypes.data, out[k].ctypes.data)
            for op in self._final:
                salt += 16
                out[k] = op(out[k], seed ^ salt)
