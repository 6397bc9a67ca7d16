"""CIFAR-10, CIFAR-100 and MNIST from their original binary files.

The files are a header and pixels. They are mapped into memory instead of read by MindSpore's
``Cifar10Dataset`` and ``MnistDataset`` (a test compares the results): nothing is copied at the
start, the ranks of a machine share the pages, and an error names the file of the wrong size.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass

import numpy as np

from mindcv_ghost.errors import DataError

if sys.platform != "win32":
    import fcntl

__all__ = ["ARRAY_SETS", "ArraySource", "open_arrays"]


@dataclass(frozen=True)
class _ArraySet:
    """Files of a set and their layout."""

    folder: str  # inside the archive; MindCV's download class has the same
    splits: dict[str, tuple[str, ...]]
    names_file: str
    num_classes: int
    label_bytes: int  # CIFAR-100 keeps a coarse label before the fine one


_TRAIN_BATCHES = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
ARRAY_SETS = {
    "cifar10": _ArraySet(
        folder="cifar-10-batches-bin",
        splits={"train": _TRAIN_BATCHES, "test": ("test_batch.bin",)},
        names_file="batches.meta.txt",
        num_classes=10,
        label_bytes=1,
    ),
    "cifar100": _ArraySet(
        folder="cifar-100-binary",
        splits={"train": ("train.bin",), "test": ("test.bin",)},
        names_file="fine_label_names.txt",
        num_classes=100,
        label_bytes=2,
    ),
    "mnist": _ArraySet(
        folder="",
        splits={
            "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        },
        names_file="",
        num_classes=10,
        label_bytes=0,
    ),
}
_CIFAR_PIXELS = 3 * 32 * 32


class ArraySource:
    """Decoded images in memory, or in a mapped file.

    Args:
        images: uint8, indexed to (H, W, C), or to CIFAR's flat (3 * 32 * 32,) with ``planar``.
        labels: (N,) integers.
        name: of the set and split, e.g. "cifar10/test".
        kind: decides the transforms: "cifar10", "cifar100" or "mnist".
        num_classes: number of classes.
        classes: their names, if known.
        planar: whether images are CIFAR's flat channels.
        in_channels: of the network.
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
    ):
        self._images, self._labels, self._name, self._planar = images, labels, name, planar
        self.in_channels = in_channels
        self.kind, self.classes, self.num_classes = kind, classes, num_classes
        self.root = name
        self.bad: dict[str, str] = {}
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise DataError(
                f"{name} has labels from {labels.min()} to {labels.max()}, legal are 0 to "
                f"{num_classes - 1}: are these the files of another set?"
            )

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
        return f"{self._name}[{index}]"


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
    name: str, data_dir: str, split: str, *, download: bool = False, in_channels: int = 3
) -> ArraySource:
    """Open CIFAR-10, CIFAR-100 or MNIST.

    Args:
        name: "cifar10", "cifar100" or "mnist".
        data_dir: folder with the binary files, or its parent, as after a download.
        split: "train", or "test" (also called "val").
        download: fetch what is missing (``data/sets/download.py``).
        in_channels: 3 repeats MNIST's one channel.

    Raises:
        DataError: if files are missing or have the wrong size.
    """
    layout = ARRAY_SETS[name]
    usage = {"val": "test", "eval": "test", "validation": "test"}.get(split, split)
    if usage not in layout.splits:
        raise DataError(f"{name} has no split {split!r}: it has train and test (also called val)")
    folder = _find(name, layout, data_dir, download)
    paths = [os.path.join(folder, file) for file in layout.splits[usage]]
    images: np.ndarray | _Concatenated
    if name == "mnist":
        images, labels = _read_idx(paths[0], 3)[..., None], _read_idx(paths[1], 1)
        if len(images) != len(labels):
            raise DataError(f"{paths[0]} has {len(images)} images, {paths[1]} {len(labels)} labels")
        if in_channels == 3:
            images = np.broadcast_to(images, (len(images), *images.shape[1:3], 3))
    else:
        records = [_read_records(path, layout.label_bytes + _CIFAR_PIXELS) for path in paths]
        labels = np.concatenate([part[:, layout.label_bytes - 1] for part in records])
        images = _Concatenated([part[:, layout.label_bytes :] for part in records])
    return ArraySource(
        images,
        np.array(labels, dtype=np.int32),
        name=f"{name}/{usage}",
        kind=name,
        num_classes=layout.num_classes,
        classes=_class_names(folder, layout),
        planar=name != "mnist",
        in_channels=in_channels,
    )


def _find(name: str, layout: _ArraySet, data_dir: str, download: bool) -> str:
    """Return the folder that has every file of the set; download them if asked to."""
    wanted = [file for files in layout.splits.values() for file in files]
    candidates = [os.path.join(data_dir, layout.folder), data_dir] if layout.folder else [data_dir]
    missing = {}
    for folder in candidates:
        missing[folder] = [f for f in wanted if not os.path.isfile(os.path.join(folder, f))]
        if not missing[folder]:
            return folder
    if download:
        _download(name, layout, data_dir)
        return _find(name, layout, data_dir, download=False)
    folder = min(candidates, key=lambda path: len(missing[path]))
    raise DataError(
        f"{name} isn't complete in {os.path.abspath(data_dir)}: missing "
        + ", ".join(missing[folder])
        + f" (looked in {' and '.join(candidates)}). Point --data_dir at the folder of the binary "
        "files, or fetch them with --dataset_download true."
    )


def _download(name: str, layout: _ArraySet, data_dir: str) -> None:
    """Download a set; one of several ranks does it while the others wait."""
    from mindcv_ghost.data.sets.download import download

    try:
        os.makedirs(data_dir, exist_ok=True)
        lock = open(os.path.join(data_dir, f".{name}.lock"), "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(
            f"{name} can't be downloaded to {os.path.abspath(data_dir)}: "
            f"{error.strerror or error}. Give a --data_dir that can be written to."
        ) from None
    with lock:
        if sys.platform != "win32":  # there, ranks that download at the same time do it twice
            fcntl.flock(lock, fcntl.LOCK_EX)
        download(name, os.path.join(data_dir, layout.folder))


def _read_records(path: str, size: int) -> np.ndarray:
    """Map a file of records of equal size: uint8 (N, size)."""
    length = os.path.getsize(path)
    if not length or length % size:
        raise DataError(
            f"{path} has {length:,} bytes, not a multiple of its records' {size:,} "
            "bytes: truncated? Fetch it again."
        )
    return np.memmap(path, np.uint8, "r").reshape(-1, size)


def _read_idx(path: str, dimensions: int) -> np.ndarray:
    """Map an IDX file of bytes (MNIST's format)."""
    header = 4 + 4 * dimensions
    with open(path, "rb") as file:
        start = file.read(header)
    if len(start) < header or start[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path} isn't an IDX file of {dimensions}-dimensional bytes (MNIST)")
    shape = struct.unpack(f">{dimensions}I", start[4:])
    expected = header + int(np.prod(shape, dtype=np.int64))
    length = os.path.getsize(path)
    if length != expected or not shape[0]:
        raise DataError(
            f"{path} has {length:,} bytes, but its header says {expected:,}: truncated? "
            "Fetch it again."
        )
    return np.memmap(path, np.uint8, "r", offset=header, shape=shape)


def _class_names(folder: str, layout: _ArraySet) -> tuple[str, ...]:
    try:
        with open(os.path.join(folder, layout.names_file), encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError):
        names = ()
    if not layout.names_file:
        return tuple(str(digit) for digit in range(10))
    return names if len(names) == layout.num_classes else ()
