"""CIFAR and MNIST as image files in class folders, which are decoded into memory at the start.

They then pass through the set's own transforms (CIFAR's padded crop) at the speed of arrays.
"""

from __future__ import annotations

import logging
import os
import time

import numpy as np

from mindcv_ghost.data.sets.array_sets import ArraySet
from mindcv_ghost.data.sets.image_file import BadImage, decode
from mindcv_ghost.data.sets.image_folder import FolderSource
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError

__all__ = ["find_class_folders", "read_class_folders"]

_logger = logging.getLogger(__name__)
_FOLDERS = {"train": ("train",), "test": ("test", "val")}


def find_class_folders(data_dir: str, usage: str) -> str | None:
    """Return the folder of a split's class folders, if there is one.

    Args:
        data_dir: its parent.
        usage: "train" or "test".
    """
    folders = (os.path.join(data_dir, name) for name in _FOLDERS[usage])
    return next((folder for folder in folders if os.path.isdir(folder)), None)


def read_class_folders(root: str, layout: ArraySet) -> tuple[np.ndarray, FolderSource]:
    """Decode all images of a split.

    Args:
        root: folder of class folders.
        layout: the set.

    Returns:
        uint8 (N, H, W, C) in the set's shape, and the files, which name each image and its class.
        The classes are in the set's own order if the folders have their names, and sorted if not.

    Raises:
        DataError: if an image can't be decoded or has another shape, or the number of classes isn't
            the set's.
    """
    started = time.monotonic()
    files = FolderSource(root)
    if set(files.classes) == set(layout.classes):
        files = FolderSource(root, classes=layout.classes)
    if files.num_classes != layout.num_classes:
        raise DataError(
            f"{printable(files.root)} has {files.num_classes} class folders; {layout.title} has "
            f"{layout.num_classes}. Any number is read by --dataset folder."
        )
    channels, height, width = layout.shape
    images = np.empty((len(files), height, width, channels), np.uint8)
    for index in range(len(files)):
        try:
            image = decode(files.read(index)[0])
        except BadImage as problem:
            raise DataError(
                f"{printable(files.name_of(index))}: {problem}\nRepair or remove this file."
            ) from None
        grey = channels == 1 and bool((image == image[..., :1]).all())
        if image.shape[:2] != (height, width) or (channels == 1 and not grey):
            kind = "" if channels == 3 else f", {'grey' if grey else 'coloured'}"
            raise DataError(
                f"{printable(files.name_of(index))} has {image.shape[0]} x {image.shape[1]} pixels"
                f"{kind}; images of {layout.title} have {height} x {width}"
                f"{', grey' if channels == 1 else ''}. Any others are read by --dataset folder."
            )
        images[index] = image[..., :channels]
    _logger.info(
        "%s: %s image files of %s decoded into memory in %.1f s",
        *(layout.title, f"{len(files):,}", printable(files.root), time.monotonic() - started),
    )
    return images, files
