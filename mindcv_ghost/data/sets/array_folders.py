"""CIFAR and MNIST as image files in class folders, which are decoded into memory at the start.

They then pass through the set's own transforms (CIFAR's padded crop) at the speed of arrays.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mindcv_ghost.data.sets.array_sets import ArraySet
from mindcv_ghost.data.sets.image_file import BadImage, decode, read_file
from mindcv_ghost.data.sets.image_folder import (
    FolderSource,
    class_folders,
    count_folders,
    refuse_other_classes,
)
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError

__all__ = [
    "ClassFolders",
    "describe_other_folders",
    "find_class_folders",
    "read_class_folders",
]

_logger = logging.getLogger(__name__)
_SPLITS = {"train": ("train",), "test": ("test", "val")}


@dataclass(frozen=True)
class ClassFolders:
    """The class folders of a set.

    Args:
        roots: "train" and "test" -> their parent.
        names: of the folders, in the order of their labels.
        classes: what they are called in messages: the set's own names, if it has any.
    """

    roots: Mapping[str, str]
    names: tuple[str, ...]
    classes: tuple[str, ...]


def find_class_folders(data_dir: str, layout: ArraySet) -> ClassFolders | None:
    """Find both splits of a set in ``data_dir``; None if there is neither.

    A folder is a split if it has as many class folders as the set has classes: ``test`` is a usual
    name in a working folder.

    Labels are the set's own where the folders have its names (``T-shirt_top`` stands for
    "T-shirt/top") or are numbered from 0. CIFAR's names are in alphabetical order.

    Args:
        data_dir: the parent of ``train`` and ``test`` (or ``val``).
        layout: the set.

    Raises:
        DataError: if a split is missing, they have other classes, or these aren't the set's.
    """
    roots: dict[str, str] = {}
    for usage, there in _candidates(data_dir).items():
        # Where the other split is one, this one is meant to be, and a message says what it lacks.
        whole = [path for path in there if count_folders(path) == layout.num_classes]
        if there:
            roots[usage] = (whole or there)[0]
    if not any(count_folders(path) == layout.num_classes for path in roots.values()):
        return None
    if len(roots) < len(_SPLITS):
        (found,) = roots
        missing = next(usage for usage in _SPLITS if usage not in roots)
        raise DataError(
            f"{layout.title} has class folders in {printable(roots[found])}, but there is no "
            f"{printable(os.path.join(os.path.abspath(data_dir), missing))}: give both splits."
        )
    names = class_folders(roots["train"])
    refuse_other_classes(roots["train"], names, roots["test"], class_folders(roots["test"]))
    ordered = _ordered(names, layout)
    return ClassFolders(roots, ordered, layout.classes or ordered)


def describe_other_folders(data_dir: str, layout: ArraySet) -> str:
    """Say why ``train``, ``test`` or ``val`` isn't a split of a set; "" if there is none of them.

    Args:
        data_dir: their parent; :func:`find_class_folders` found nothing there.
        layout: the set.
    """
    for path in itertools.chain(*_candidates(data_dir).values()):
        found = count_folders(path)
        if found:
            return (
                f"{printable(path)} has {found} class folder{'' if found == 1 else 's'}; "
                f"{layout.title} has {layout.num_classes}. Images of other sets are read by "
                "--dataset folder. "
            )
    return ""


def _candidates(data_dir: str) -> dict[str, list[str]]:
    """Return the folders that may be a split: usage -> paths, the preferred one first."""
    found: dict[str, list[str]] = {}
    for usage, names in _SPLITS.items():
        paths = (os.path.join(os.path.abspath(data_dir), name) for name in names)
        found[usage] = [path for path in paths if os.path.isdir(path)]
    return found


def _ordered(names: Sequence[str], layout: ArraySet) -> tuple[str, ...]:
    """Return the folders' names in the order of the labels."""
    numbers = tuple(str(label) for label in range(layout.num_classes))
    if set(names) == set(numbers):
        return numbers
    if not layout.classes:
        return tuple(names)
    named = {_letters(name): name for name in names}
    wanted = [_letters(name) for name in layout.classes]
    if set(named) != set(wanted):
        raise DataError(
            f"the class folders are {', '.join(map(printable, names))}, but the classes of "
            f"{layout.title} are {', '.join(layout.classes)}. Name the folders after them, or "
            f"{numbers[0]} to {numbers[-1]} in this order."
        )
    return tuple(named[name] for name in wanted)


def _letters(name: str) -> str:
    """Return a name without what a folder's name can't have, or spells in its own way."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def read_class_folders(
    folders: ClassFolders, usage: str, layout: ArraySet
) -> tuple[np.ndarray, FolderSource]:
    """Decode all images of a split.

    Args:
        folders: of the set.
        usage: "train" or "test".
        layout: the set.

    Returns:
        uint8 (N, H, W, C) in the set's shape, and the files in the same order.

    Raises:
        DataError: if an image can't be decoded or has another shape.
    """
    started = time.monotonic()
    files = FolderSource(folders.roots[usage], classes=folders.names)
    channels, height, width = layout.shape
    images = np.empty((len(files), height, width, channels), np.uint8)
    for index in range(len(files)):
        path = files.name_of(index)
        image = _decoded(path)
        grey = channels == 1 and bool((image == image[..., :1]).all())
        if image.shape[:2] != (height, width) or (channels == 1 and not grey):
            kind = "" if channels == 3 else f", {'grey' if grey else 'coloured'}"
            raise DataError(
                f"{printable(path)} has {image.shape[0]} x {image.shape[1]} pixels{kind}; images "
                f"of {layout.title} have {height} x {width}{', grey' if channels == 1 else ''}. "
                "Images of other sets are read by --dataset folder."
            )
        images[index] = image[..., :channels]
    _logger.info(
        "%s: %s image files of %s decoded into memory in %.1f s",
        *(layout.title, f"{len(files):,}", printable(files.root), time.monotonic() - started),
    )
    return images, files


def _decoded(path: str) -> np.ndarray:
    try:
        return decode(read_file(path))
    except BadImage as problem:
        reason = str(problem)
    except OSError as problem:
        reason = f"can't be read: {problem.strerror or problem}"
    raise DataError(
        f"{printable(path)}: {reason}\nRepair or remove this file; --on_bad_image skip is for "
        "--dataset folder."
    )
