"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST: their own files, or images in class folders."""

from __future__ import annotations

import hashlib
import logging
import os

import numpy as np

from mindcv_ghost.data.sets.array_files import FETCH_AGAIN, read_idx, read_records
from mindcv_ghost.data.sets.array_folders import (
    ClassFolders,
    describe_other_folders,
    find_class_folders,
    read_class_folders,
)
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS, ArraySet
from mindcv_ghost.data.sets.image_folder import FolderSource
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError, MissingDataError
from mindcv_ghost.storage.file_lock import locked

__all__ = ["ArraySource", "array_class_names", "open_arrays"]

_logger = logging.getLogger(__name__)


class ArraySource:
    """Decoded images in memory, or in a mapped file.

    Args:
        images: uint8, indexed to (H, W, C), or to CIFAR's flat (3 * 32 * 32,) with ``planar``.
        labels: (N,) integers.
        name: of the set and split, e.g. "cifar10/test".
        kind: decides the transforms: a name in ``ARRAY_SETS``.
        num_classes: number of classes.
        classes: their names, if known.
        planar: whether images are CIFAR's flat channels.
        in_channels: of the network.
        files: that the images were decoded from, in the same order, if each has one.
    """

    encoded = False
    on_bad_image = "stop"

    def __init__(
        self,
        images: np.ndarray | _Concatenated,
        labels: np.ndarray,
        *,
        name: str,
        kind: str,
        num_classes: int,
        classes: tuple[str, ...] = (),
        planar: bool = False,
        in_channels: int = 3,
        files: FolderSource | None = None,
    ):
        self._images, self._labels, self._name, self._planar = images, labels, name, planar
        self.in_channels = in_channels
        self.kind, self.classes, self.num_classes = kind, classes, num_classes
        self._files = files
        self.root = name if files is None else files.root
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return an image, uint8 (H, W, C), and its label."""
        image = self._images[index]
        if self._planar:
            image = image.reshape(3, 32, 32).transpose(1, 2, 0)
        return np.ascontiguousarray(image), int(self._labels[index])

    def label_of(self, index: int) -> int:
        """Return the label of an image."""
        return int(self._labels[index])

    def planes(self) -> list[np.ndarray]:
        """Return all images in order, without a copy: arrays of uint8 (N, C, H, W)."""
        images = self._images
        parts = images.parts if isinstance(images, _Concatenated) else [images]
        if self._planar:
            return [part.reshape(-1, 3, 32, 32) for part in parts]
        return [part.transpose(0, 3, 1, 2) for part in parts]

    def name_of(self, index: int) -> str:
        """Name an image in a message."""
        return f"{self._name}[{index}]" if self._files is None else self._files.name_of(index)


class _Concatenated:
    """Several mapped arrays as one, without a copy (CIFAR-10: 150 MB) in each rank."""

    def __init__(self, parts: list[np.ndarray]):
        self._parts = parts
        self._starts = np.cumsum([0] + [len(part) for part in parts])

    @property
    def parts(self) -> list[np.ndarray]:
        return self._parts

    def __getitem__(self, index: int) -> np.ndarray:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[part][index - self._starts[part]]


def open_arrays(
    name: str,
    data_dir: str,
    split: str,
    *,
    download: bool = False,
    in_channels: int = 3,
    system_files: bool = False,
) -> ArraySource:
    """Open one split of a set.

    Args:
        name: one of ``ARRAY_SETS``.
        data_dir: folder with the binary files, or its parent, as after a download. Without these,
            class folders of images are read: ``data_dir/train/CLASS/IMAGE``, and ``test``.
        split: "train", or "test" (also called "val").
        download: fetch what is missing (``data/sets/download.py``).
        in_channels: 3 repeats the one channel of grey sets.
        system_files: read the files of a package of the system where ``data_dir`` has none.

    Raises:
        DataError: if files are missing, or aren't those of the set.
    """
    layout = ARRAY_SETS[name]
    usage = {"val": "test", "eval": "test", "validation": "test"}.get(split, split)
    if usage not in layout.splits:
        raise DataError(f"{name} has no split {split!r}: it has train and test (also called val)")
    folders = _find_class_folders(data_dir, layout)
    if folders is not None:
        return _open_folders(name, folders, usage, in_channels)
    folder = _find(name, data_dir, download, system_files)
    paths = [_file_of(folder, file, layout) or "" for file in layout.splits[usage]]
    images: np.ndarray | _Concatenated
    if layout.label_bytes:
        images, labels = _read_cifar(paths, layout)
    else:
        images, labels = _read_mnist(paths, layout, usage)
        images = _with_channels(images, in_channels)
    return ArraySource(
        images,
        np.array(labels, dtype=np.int32),
        name=f"{name}/{usage}",
        kind=name,
        num_classes=layout.num_classes,
        classes=layout.classes or _class_names(folder, layout),
        planar=bool(layout.label_bytes),
        in_channels=in_channels,
    )


def array_class_names(name: str, data_dir: str) -> tuple[str, ...]:
    """Return a set's class names in the order of their labels, without decoding images.

    Raises:
        DataError: if the set isn't there, and its names would be.
    """
    layout = ARRAY_SETS[name]
    if layout.classes:
        return layout.classes
    folders = _find_class_folders(data_dir, layout)
    return open_arrays(name, data_dir, "test").classes if folders is None else folders.classes


def _find_class_folders(data_dir: str, layout: ArraySet) -> ClassFolders | None:
    """Find class folders where none of the set's own files is."""
    return None if _holds_files(data_dir, layout) else find_class_folders(data_dir, layout)


def _open_folders(name: str, folders: ClassFolders, usage: str, in_channels: int) -> ArraySource:
    """Open a split whose images are files in class folders."""
    images, files = read_class_folders(folders, usage, ARRAY_SETS[name])
    labels = [files.label_of(index) for index in range(len(files))]
    return ArraySource(
        _with_channels(images, in_channels),
        np.array(labels, dtype=np.int32),
        name=f"{name}/{usage}",
        kind=name,
        num_classes=files.num_classes,
        classes=folders.classes,
        in_channels=in_channels,
        files=files,
    )


def _with_channels(images: np.ndarray, in_channels: int) -> np.ndarray:
    """Repeat the channel of grey images (N, H, W, 1) for a network with three, without a copy."""
    if images.shape[3] == 1 and in_channels == 3:
        return np.broadcast_to(images, (*images.shape[:3], 3))
    return images


def _folders_of(data_dir: str, layout: ArraySet) -> list[str]:
    """Return where the files of a set may lie."""
    return [os.path.join(data_dir, layout.folder), data_dir] if layout.folder else [data_dir]


def _holds_files(data_dir: str, layout: ArraySet) -> bool:
    """Whether at least one of the set's own files is there."""
    return any(
        _file_of(folder, file, layout)
        for folder in _folders_of(data_dir, layout)
        for files in layout.splits.values()
        for file in files
    )


def _find(name: str, data_dir: str, download: bool, system_files: bool) -> str:
    """Return the folder that has every file of the set; download them if asked to."""
    layout = ARRAY_SETS[name]
    folders = _folders_of(data_dir, layout)
    wanted = [file for files in layout.splits.values() for file in files]

    def missing(folder: str) -> list[str]:
        return [file for file in wanted if _file_of(folder, file, layout) is None]

    for folder in folders:
        if not missing(folder):
            return folder
    nearest = min(folders, key=lambda folder: len(missing(folder)))
    # Files in data_dir are meant to be read, so others don't silently take their place.
    nothing_there = len(missing(nearest)) == len(wanted)
    place = os.path.abspath(data_dir)
    is_installed = bool(layout.system_folder) and not missing(layout.system_folder)
    if system_files and is_installed and nothing_there:
        _logger.info(
            "%s: read from %s, because %s has none of its files",
            *(layout.title, layout.system_folder, printable(place)),
        )
        return layout.system_folder
    if download:
        _download(name, layout, data_dir)
        return _find(name, data_dir, download=False, system_files=False)
    ways = ["Point --data_dir at the folder of the binary files, or of train/CLASS and test/CLASS"]
    if layout.system_folder:
        ways.append(_way_to_system_files(layout, is_installed, system_files))
    pickled = layout.pickled_folder
    is_there = pickled == os.path.basename(place) or os.path.isdir(os.path.join(place, pickled))
    hint = f"{pickled}, the version for Python, isn't read. " if pickled and is_there else ""
    if nothing_there:
        hint += describe_other_folders(data_dir, layout)
    raise MissingDataError(
        f"{name} isn't complete in {printable(place)}: missing "
        + ", ".join(missing(nearest))
        + f" (looked in {', '.join(map(printable, folders))}). {hint}{', '.join(ways)}, or fetch "
        "them with --dataset_download true."
    )


def _way_to_system_files(layout: ArraySet, is_installed: bool, are_wanted: bool) -> str:
    """Say how to read the files of a package of the system.

    Args:
        layout: the set.
        is_installed: whether they are there.
        are_wanted: whether they are read where ``data_dir`` has none.
    """
    folder, package = layout.system_folder, layout.system_package
    if is_installed:
        way = "remove what is there" if are_wanted else "leave it out"
        return f"{way} to read {folder} ({package})"
    return f"install {package} into {folder}{'' if are_wanted else ' and leave --data_dir out'}"


def _file_of(folder: str, file: str, layout: ArraySet) -> str | None:
    """Return the path of a file, packed or not, if it exists."""
    paths = (os.path.join(folder, file + ending) for ending in layout.packs)
    return next((path for path in paths if os.path.isfile(path)), None)


def _download(name: str, layout: ArraySet, data_dir: str) -> None:
    """Download a set; one of several ranks does it while the others wait."""
    from mindcv_ghost.data.sets.download import download

    try:
        os.makedirs(data_dir, exist_ok=True)
        with locked(os.path.join(data_dir, f".{name}.lock")) as is_alone:
            download(name, os.path.join(data_dir, layout.folder), is_alone=is_alone)
    except OSError as error:
        raise DataError(
            f"{name} can't be downloaded to {printable(os.path.abspath(data_dir))}: "
            f"{error.strerror or error}. Give a --data_dir that can be written to."
        ) from None


def _read_cifar(paths: list[str], layout: ArraySet) -> tuple[_Concatenated, np.ndarray]:
    """Read files of records: a label or two, then channels, rows and columns."""
    size = layout.label_bytes + int(np.prod(layout.shape))
    labels, images = [], []
    for path in paths:
        records = read_records(path, size, layout.counts[os.path.basename(path)])
        labels.append(records[:, layout.label_bytes - 1])
        images.append(records[:, layout.label_bytes :])
        _check_labels(labels[-1], layout, path)
    return _Concatenated(images), np.concatenate(labels)


def _read_mnist(paths: list[str], layout: ArraySet, usage: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of images, to (N, H, W, 1), and a file of labels."""
    images, labels = read_idx(paths[0], 3)[..., None], read_idx(paths[1], 1)
    first, second = map(printable, paths)
    if len(images) != len(labels):
        raise DataError(
            f"{first} has {len(images):,} images, {second} {len(labels):,} labels: they must be as "
            "many. Are the files of different sets? Remove both, and --dataset_download true "
            "fetches them again."
        )
    if images.shape[1:3] != layout.shape[1:]:
        found, legal = (
            " x ".join(map(str, shape)) for shape in (images.shape[1:3], layout.shape[1:])
        )
        raise DataError(
            f"{first} has images of {found} pixels; legal for {layout.title} is {legal}. Is it "
            f"another file under this name? {FETCH_AGAIN}"
        )
    _check_labels(labels, layout, paths[1])
    _check_original(labels, layout, usage, second)
    return images, labels


def _check_original(labels: np.ndarray, layout: ArraySet, usage: str, path: str) -> None:
    """Raise or warn if the labels are those of another set, as far as sums are known."""
    found = len(labels), hashlib.md5(labels.tobytes(), usedforsecurity=False).hexdigest()
    expected = layout.label_sums.get(usage)
    if expected and expected[0] == found[0] and expected != found:
        raise DataError(
            f"{path} doesn't have the labels of {layout.title}. MNIST's files have the same names: "
            f"put those of {layout.title} into a folder of their own, e.g. {layout.folder} in "
            "data_dir."
        )
    for name, other in ARRAY_SETS.items():
        if other is not layout and other.label_sums.get(usage) == found:
            _logger.warning(
                "%s has the labels of %s, but is read as %s: --dataset %s has its mean, its "
                "augmentation and its class names",
                *(path, other.title, layout.title, name),
            )


def _check_labels(labels: np.ndarray, layout: ArraySet, path: str) -> None:
    if int(labels.max()) >= layout.num_classes:  # they are unsigned
        raise DataError(
            f"{printable(path)} has labels from {labels.min()} to {labels.max()}, legal are 0 to "
            f"{layout.num_classes - 1}. Is it another file under this name? {FETCH_AGAIN}"
        )


def _class_names(folder: str, layout: ArraySet) -> tuple[str, ...]:
    try:
        with open(os.path.join(folder, layout.names_file), encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError):
        names = ()
    return names if len(names) == layout.num_classes else ()
