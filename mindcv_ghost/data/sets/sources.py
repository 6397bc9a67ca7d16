"""What a set of images is, how to open one, and whether two splits belong together."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.sets.arrays import array_class_names, open_arrays
from mindcv_ghost.data.sets.image_folder import (
    FolderSource,
    class_folders,
    refuse_other_classes,
)
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError, did_you_mean

__all__ = [
    "FOLDER_NAMES",
    "Source",
    "check_splits",
    "class_names",
    "fingerprint",
    "known_class_names",
    "open_source",
]

FOLDER_NAMES = ("imagenet", "", "folder")
_logger = logging.getLogger(__name__)


class Source(Protocol):
    """A set of labelled images, read one by one in any order, from several threads at once."""

    root: str
    classes: tuple[str, ...]  # () if the set has no names
    in_channels: int  # of the network
    bad: dict[str, str]  # path -> reason of the bad images found so far

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def encoded(self) -> bool:
        """Whether items are files to decode, and not pixels."""

    @property
    def kind(self) -> str:
        """Decides the transforms: "imagenet", or a name in ``ARRAY_SETS``."""

    @property
    def on_bad_image(self) -> str:
        """What loaders do with a bad image: "stop" or "skip"."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return encoded bytes, uint8 (bytes,), or pixels, uint8 (H, W, C), and the label."""

    def label_of(self, index: int) -> int:
        """Return the label of an image, without reading it."""

    def name_of(self, index: int) -> str:
        """Name an image: a path, or e.g. "cifar10/test[17]"."""


def open_source(
    name: str,
    data_dir: str,
    split: str,
    *,
    download: bool = False,
    on_bad_image: str = "stop",
    in_channels: int = 3,
    classes: Sequence[str] | None = None,
    system_files: bool = False,
) -> Source:
    """Open one split of a set.

    Args:
        name: "imagenet", "" or "folder" for any folder of class folders; "digits", or one of
            ``ARRAY_SETS``.
        data_dir: its folder; an image folder has ``data_dir/split/CLASS/IMAGE``.
        split: e.g. "train"; "" for the class folders in ``data_dir`` itself.
        download: download one of ``ARRAY_SETS`` if it is missing.
        on_bad_image: "stop" or "skip".
        in_channels: of the network. For 3, the one channel of grey sets is repeated; for 1,
            colours turn grey.
        classes: class names in the order of their labels. A validation split gets those of the
            training split, so that a missing folder shifts no label.
        system_files: read the files of a package of the system where ``data_dir`` has none.

    Raises:
        DataError: with everything that is wrong with the folder or the files.
    """
    name = name.lower()
    if in_channels not in (1, 3):
        raise DataError(f"in_channels is {in_channels}; legal are 3, and 1 for grey images")
    if on_bad_image not in ("stop", "skip"):
        raise DataError(f"on_bad_image is {on_bad_image!r}; legal are stop and skip")
    if name in ARRAY_SETS:
        return open_arrays(
            *(name, data_dir, split),
            download=download,
            in_channels=in_channels,
            system_files=system_files,
        )
    if name == "digits":
        from mindcv_ghost.data.sets.digits import write_digits

        data_dir = write_digits(data_dir)
    elif name not in FOLDER_NAMES:
        legal = ["imagenet", "folder", "digits", *ARRAY_SETS]
        raise DataError(
            f"dataset: there is no {name!r}{did_you_mean(name, legal) or '.'} "
            f"Legal are {', '.join(legal)}; imagenet or folder is any folder of class folders."
        )
    elif download:
        raise DataError(
            f"dataset_download: {name or 'a folder'} can't be downloaded, only "
            f"{', '.join(ARRAY_SETS)} can. Unpack the images to "
            f"{printable(data_dir)}/{split}/CLASS/."
        )
    root = os.path.join(data_dir, split) if split else data_dir
    return FolderSource(root, classes=classes, on_bad_image=on_bad_image, in_channels=in_channels)


def class_names(name: str, data_dir: str, split: str) -> tuple[str, ...] | None:
    """List the class names of a folder's split; None if the folder doesn't exist.

    For a validation without training images: labels come from the training split's class folders
    if these exist.
    """
    if name.lower() not in FOLDER_NAMES or not os.path.isdir(os.path.join(data_dir, split)):
        return None
    return tuple(class_folders(os.path.join(data_dir, split)))


def known_class_names(name: str, data_dir: str, splits: Sequence[str]) -> tuple[str, ...]:
    """List a set's class names if they can be known without writing or downloading anything.

    Args:
        name: as for :func:`open_source`.
        data_dir: likewise.
        splits: of a folder; the first one that exists counts.

    Returns:
        The names in the order of their labels; () if they aren't known.
    """
    name = name.lower()
    if name == "digits":
        return tuple("0123456789")
    try:
        if name in ARRAY_SETS:
            return array_class_names(name, data_dir)
        found = (class_names(name, data_dir, split) for split in splits)
        return next((names for names in found if names), ())
    except DataError:
        return ()


def fingerprint(source: Source) -> str:
    """Return a digest of the names of a set's images, in order; pixels don't count.

    An epoch's order is a permutation of indices: two runs read the same images only if this digest
    is the same.
    """
    digest = hashlib.sha256(f"{len(source)} {source.num_classes}".encode())
    root = os.path.join(source.root, "")
    for index in range(len(source)):
        name = source.name_of(index)
        name = name[len(root) :] if name.startswith(root) else name
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()


def check_splits(train: Source | None, val: Source | None, num_classes: int | None) -> int:
    """Raise if two splits' labels differ in meaning, or the network has too few classes for them.

    Args:
        train: the training split, or None; one of the splits is needed.
        val: the validation split, or None.
        num_classes: of the network; None: as many as the data have.

    Returns:
        The number of classes for the network.

    Raises:
        DataError: if the class folders differ or ``num_classes`` is too small.
    """
    source = train if train is not None else val
    if source is None:
        raise ValueError("check_splits needs a split")
    if train is not None and val is not None:
        _check_same_classes(train, val)
    found = source.num_classes
    if num_classes is None:
        return found
    if num_classes < found:
        raise DataError(
            f"num_classes is {num_classes}, but {printable(source.root)} has {found} classes. "
            f"Set num_classes: {found} (or omit it)."
        )
    if num_classes > found:
        _logger.warning(
            "num_classes is %d, %s has %d classes: labels 0 to %d are used",
            num_classes,
            printable(source.root),
            found,
            found - 1,
        )
    return num_classes


def _check_same_classes(train: Source, val: Source) -> None:
    if isinstance(train, FolderSource) and isinstance(val, FolderSource):
        refuse_other_classes(train.root, train.classes, val.root, val.folders)
    if (train.num_classes, train.classes) != (val.num_classes, val.classes):
        raise DataError(
            f"{printable(train.root)} has {train.num_classes} classes, {printable(val.root)} has "
            f"{val.num_classes} with other class names: are these splits of one set?"
        )
