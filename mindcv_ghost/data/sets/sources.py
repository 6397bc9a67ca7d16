"""Where images come from: one protocol, the sets that implement it, and the check of two splits."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mindcv_ghost.data.sets.arrays import ARRAY_SETS, open_arrays
from mindcv_ghost.data.sets.image_folder import (
    FolderSource,
    class_folders,
    refuse_other_classes,
    shown,
)
from mindcv_ghost.errors import DataError

__all__ = ["FOLDER_NAMES", "Source", "check_splits", "class_names", "fingerprint", "open_source"]

FOLDER_NAMES = ("imagenet", "", "folder")
_log = logging.getLogger("mindcv_ghost.data")


class Source(Protocol):
    """A set of labelled images, read one by one in any order, from several threads at once.

    ``encoded`` tells whether items are files to decode or pixels, ``kind`` whose transforms apply.
    """

    classes: tuple[str, ...]  # () when the set has no names
    num_classes: int
    encoded: bool
    kind: str  # "imagenet" | "cifar10" | "cifar100" | "mnist"
    root: str
    in_channels: int  # of the network
    on_bad_image: str  # "stop" | "skip"
    bad: dict[str, str]  # path -> reason, found so far
    failure: DataError | None  # what ended the stream of images, see stream.SampleStream

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Encoded bytes, uint8 (bytes,), or pixels, uint8 (H, W, C), and the label."""

    def label_of(self, index: int) -> int:
        """The label without reading the image."""

    def name_of(self, index: int) -> str:
        """A path, or e.g. "cifar10/test[17]"."""


def open_source(
    name: str,
    data_dir: str,
    split: str,
    *,
    download: bool = False,
    on_bad_image: str = "stop",
    in_channels: int = 3,
    classes: Sequence[str] | None = None,
) -> Source:
    """Open one split of a set.

    Args:
        name: "imagenet", "" or "folder" for any folder of class folders; "digits", "cifar10",
            "cifar100" or "mnist".
        data_dir: where it is; ``data_dir/split/CLASS/IMAGE`` for a folder.
        split: e.g. "train"; "" for the class folders in ``data_dir`` itself.
        download: fetch CIFAR and MNIST if they are missing.
        on_bad_image: "stop" or "skip".
        in_channels: of the network; MNIST's single channel is repeated for 3, colours turn grey
            for 1.
        classes: class names in the order of their labels, for a validation split: those of the
            training split, so that a missing folder shifts no label.

    Raises:
        DataError: with everything that is wrong with the folder or the files.
    """
    name = name.lower()
    if in_channels not in (1, 3):
        raise DataError(f"in_channels is {in_channels}; images have 3, or 1 made grey of them")
    if on_bad_image not in ("stop", "skip"):
        raise DataError(f"on_bad_image is {on_bad_image!r}; legal are stop and skip")
    if name in ARRAY_SETS:
        return open_arrays(name, data_dir, split, download=download, in_channels=in_channels)
    if name == "digits":
        from mindcv_ghost.data.sets.digits import write_digits

        data_dir = write_digits(data_dir)
    elif name not in FOLDER_NAMES:
        legal = ["imagenet", "folder", "digits", *ARRAY_SETS]
        close = difflib.get_close_matches(name, legal, n=1)
        raise DataError(
            f"dataset: there is no {name!r}{f', did you mean {close[0]!r}?' if close else '.'} "
            f"Legal are {', '.join(legal)}; imagenet or folder is any folder of class folders."
        )
    elif download:
        raise DataError(
            f"dataset_download: {name or 'a folder'} can't be downloaded, only "
            f"{', '.join(ARRAY_SETS)} can. Unpack the images to {shown(data_dir)}/{split}/CLASS/."
        )
    root = os.path.join(data_dir, split) if split else data_dir
    return FolderSource(root, classes=classes, on_bad_image=on_bad_image, in_channels=in_channels)


def class_names(name: str, data_dir: str, split: str) -> tuple[str, ...] | None:
    """Class names of a folder's split at the price of one listing; None if it isn't there.

    For a validation without its training images: labels still come from the training split's
    folders where these exist.
    """
    if name.lower() not in FOLDER_NAMES or not os.path.isdir(os.path.join(data_dir, split)):
        return None
    return tuple(class_folders(os.path.join(data_dir, split)))


def fingerprint(source: Source) -> str:
    """A digest of a set's images by name and place, label by label; the pixels don't count.

    Orders are permutations of places: two runs read the same images only if this is equal.
    """
    digest = hashlib.sha256(f"{len(source)} {source.num_classes}".encode())
    root = os.path.join(source.root, "")
    for index in range(len(source)):
        name = source.name_of(index)
        name = name[len(root) :] if name.startswith(root) else name
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()


def check_splits(train: Source | None, val: Source | None, num_classes: int | None) -> int:
    """Refuse splits whose labels don't mean the same, and a head too small for them.

    Args:
        train, val: the splits there are, at least one.
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
            f"num_classes is {num_classes}, but {shown(source.root)} has {found} classes. "
            f"Set num_classes: {found} (or leave it out)."
        )
    if num_classes > found:
        _log.warning(
            "num_classes is %d, %s has %d classes: labels 0 to %d are used",
            num_classes,
            shown(source.root),
            found,
            found - 1,
        )
    return num_classes


def _check_same_classes(train: Source, val: Source) -> None:
    if isinstance(train, FolderSource) and isinstance(val, FolderSource):
        refuse_other_classes(train.root, train.classes, val.root, val.folders)
    if (train.num_classes, train.classes) != (val.num_classes, val.classes):
        raise DataError(
            f"{shown(train.root)} has {train.num_classes} classes, {shown(val.root)} has "
            f"{val.num_classes} with labels of their own: are these splits of one set?"
        )
