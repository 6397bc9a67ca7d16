"""Training images from arrays in memory (CIFAR, MNIST) by the C++ library, several a call."""

from __future__ import annotations

import numpy as np

from mindcv_ghost.data.native.library import load
from mindcv_ghost.data.sets.arrays import ArraySource
from mindcv_ghost.data.transforms.factory import TrainTransforms
from mindcv_ghost.native_build import Unavailable

__all__ = ["ARRAY_SETTINGS", "ArrayImages", "train_arrays"]

# loader::ArraySettings of cpp/array_images.h.
ARRAY_SETTINGS = np.dtype(
    [
        ("channels", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("padding", np.int32),
        ("strides", np.int64, 3),
        ("hflip", np.float64),
    ],
    align=True,
)


def train_arrays(source: ArraySource, transforms: TrainTransforms) -> ArrayImages:
    """Make what makes training images of arrays.

    Args:
        source: the training split.
        transforms: MindCV's for its kind.

    Raises:
        Unavailable: if the transforms do more than to pad, crop, flip and normalise, or the library
            can't be built, with the reason in half a sentence.
    """
    planes = source.planes()
    channels, height, width = planes[0].shape[1:]
    settings = np.zeros(1, ARRAY_SETTINGS)
    settings["channels"], settings["height"], settings["width"] = channels, height, width
    settings["strides"] = planes[0].strides[1:]
    # What the operations after the geometry make of each byte.
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], channels, 2)
    for op in transforms.primary:
        name = type(op).__name__
        if name == "RandomCrop" and op.size == (height, width) and len(set(op.padding)) == 1:
            settings["padding"] = op.padding[0]
        elif name == "RandomHorizontalFlip":
            settings["hflip"] = op.prob
        elif name == "Resize":
            if op.c_size not in ((height, width), (min(height, width),)):
                raise Unavailable(f"images of {height} x {width} are resized")
        elif name in ("Rescale", "Normalize"):
            values = op(values)
        elif name != "HWC2CHW":
            raise Unavailable(f"{name} isn't one of the native loader's operations")
    return ArrayImages(source, planes, settings, values[:, 0].T)


class ArrayImages:
    """Crops, flips and normalises images in memory; threads may share it.

    It has the methods of ``ImageDecoder`` that the training batches need.

    Args:
        source: the images.
        planes: the same, uint8 (N, C, H, W), in parts.
        settings: one ``ARRAY_SETTINGS`` record, shape (1,).
        table: what each byte becomes, float32 (C, 256).
    """

    info = "native loader, from memory"

    def __init__(
        self, source: ArraySource, planes: list[np.ndarray], settings: np.ndarray, table: np.ndarray
    ) -> None:
        self.source = source
        self._planes, self._settings, self._library = planes, settings, load()
        self._table = np.ascontiguousarray(table, np.float32)
        self._starts = np.cumsum([0] + [len(part) for part in planes])
        self._addresses = np.array([part.ctypes.data for part in planes], np.uint64)
        self._strides = np.array([part.strides[0] for part in planes], np.uint64)

    def allocate(self, count: int) -> np.ndarray:
        """Return uninitialised memory for images, float32 (count, C, H, W)."""
        return np.empty((count, *self._planes[0].shape[1:]), np.float32)

    def decode_batch(self, indices: np.ndarray, seeds: np.ndarray, out: np.ndarray) -> list[int]:
        """Make images.

        Args:
            indices: of the images, shape (N,).
            seeds: random seeds, shape (N,).
            out: float32 (N, C, H, W), C-contiguous; is filled.

        Returns:
            An empty list: none is left for ``decode_one``.
        """
        part = np.searchsorted(self._starts, indices, side="right") - 1
        within = (indices - self._starts[part]).astype(np.uint64)
        images = self._addresses[part] + within * self._strides[part]
        seeds = np.ascontiguousarray(seeds, np.uint64)
        self._library.loader_arrays(
            self._settings.ctypes.data,
            images.ctypes.data,
            seeds.ctypes.data,
            len(images),
            self._table.ctypes.data,
            out.ctypes.data,
        )
        return []

    def decode_one(self, index: int, seed: int, out: np.ndarray) -> int:
        """Make one image, float32 (1, C, H, W), in ``out``; return its label."""
        self.decode_batch(np.array([index]), np.array([seed]), out)
        return self.source.label_of(index)
