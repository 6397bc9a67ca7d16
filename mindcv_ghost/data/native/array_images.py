"""Images from arrays in memory (CIFAR, MNIST) by the C++ library, several a call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindcv_ghost.data.native.library import load
from mindcv_ghost.data.sets.arrays import ArraySource
from mindcv_ghost.data.transforms.factory import TrainTransforms
from mindcv_ghost.data.transforms.seeded import SeededOp
from mindcv_ghost.native_build import Unavailable

__all__ = ["ARRAY_SETTINGS", "ArrayImages", "eval_arrays", "train_arrays"]

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
        Unavailable: if the transforms do more than to pad, crop, flip and normalise, besides their
            ``SeededOp`` objects, or the library can't be built, with the reason in half a sentence.
    """
    return _array_images(source, transforms.primary, transforms.secondary, transforms.final)


def eval_arrays(source: ArraySource, transforms: list) -> ArrayImages:
    """Make what makes evaluation images of arrays; see :func:`train_arrays`."""
    return _array_images(source, [], [], transforms)


def _array_images(source: ArraySource, primary: list, secondary: list, final: list) -> ArrayImages:
    planes = source.planes()
    channels, height, width = planes[0].shape[1:]
    settings = np.zeros(1, ARRAY_SETTINGS)
    settings["channels"], settings["height"], settings["width"] = channels, height, width
    settings["strides"] = planes[0].strides[1:]
    # What the operations after the geometry make of each byte.
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], channels, 2)
    seeded = [op for op in (*secondary, *final) if isinstance(op, SeededOp)]
    for op in (*primary, *secondary, *final):
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
        elif name != "HWC2CHW" and op not in seeded:
            raise Unavailable(f"{name} isn't one of the native loader's operations")
    return ArrayImages(source, planes, settings, values[:, 0].T, secondary, final)


class ArrayImages:
    """Crops, flips and normalises images in memory; threads may share it.

    It has the methods of ``ImageDecoder`` that batches need.

    Args:
        source: the images.
        planes: the same, uint8 (N, C, H, W), in parts.
        settings: one ``ARRAY_SETTINGS`` record, shape (1,).
        table: what each byte becomes, float32 (C, 256).
        secondary: operations on bytes (H, W, C) before normalisation. Only the ``SeededOp`` objects
            among them are called; the library does the work of the others.
        final: operations on floats (C, H, W) after normalisation; likewise.

    Attributes:
        black: the pixel that an image of zeros is normalised to, float32 (C, 1, 1).
    """

    info = "native loader, from memory"

    def __init__(
        self,
        source: ArraySource,
        planes: list[np.ndarray],
        settings: np.ndarray,
        table: np.ndarray,
        secondary: Sequence = (),
        final: Sequence = (),
    ) -> None:
        self.source = source
        self._planes, self._settings, self._library = planes, settings, load()
        self._secondary = [op for op in secondary if isinstance(op, SeededOp)]
        self._final = [op for op in final if isinstance(op, SeededOp)]
        self._values = np.ascontiguousarray(table, np.float32)
        # With operations on bytes the library leaves each byte as it is.
        self._table = self._values
        if self._secondary:
            self._table = np.tile(np.arange(256, dtype=np.float32), (len(table), 1))
        self.black = self._values[:, :1, None]
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
        if self._secondary or self._final:
            for image, seed in zip(out, seeds):  # noqa: B905 (Python 3.9)
                self._call_operations(image, int(seed))
        return []

    def _call_operations(self, out: np.ndarray, seed: int) -> None:
        """Apply the operations in Python to an image of the library's, float32 (C, H, W)."""
        salt = 0  # as in MindSpore's pipeline, so that both draw the same numbers
        if self._secondary:
            image = np.ascontiguousarray(out.astype(np.uint8).transpose(1, 2, 0))
            for op in self._secondary:
                salt += 16
                image = op(image, seed ^ salt)
            for channel, values in enumerate(self._values):
                out[channel] = values[image[..., channel]]
        for op in self._final:
            salt += 16
            out[...] = op(out, seed ^ salt)

    def decode_one(self, index: int, seed: int, out: np.ndarray) -> int:
        """Make one image, float32 (1, C, H, W), in ``out``; return its label."""
        self.decode_batch(np.array([index]), np.array([seed]), out)
        return self.source.label_of(index)
