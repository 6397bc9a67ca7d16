"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST: their files, classes, mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ARRAY_SETS", "ArraySet"]


@dataclass(frozen=True)
class ArraySet:
    """Files of a set and their layout.

    Args:
        title: the set's name in messages.
        folder: inside ``data_dir``; MindCV's download class has the same.
        splits: files of each split; of IDX files the images, then the labels.
        shape: of an image: channels, height, width.
        mean: of each channel of the training images, whose values are 0 to 1.
        std: their standard deviation.
        num_classes: number of classes.
        label_bytes: before each image; CIFAR-100 keeps a coarse label before the fine one. 0: the
            files are IDX files.
        counts: file -> its number of images, which an IDX file tells itself.
        classes: their names, or
        names_file: the file with the names.
        pickled_folder: what the set's version for Python unpacks to, which isn't read: pickles can
            run code.
        system_folder: where a package of the system puts the files.
        system_package: its name and the system's.
        label_sums: split -> images and MD5 sum of the labels of the original set. MNIST's and
            Fashion-MNIST's files have the same names and sizes.
    """

    title: str
    folder: str
    splits: Mapping[str, tuple[str, ...]]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int = 10
    label_bytes: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    names_file: str = ""
    pickled_folder: str = ""
    system_folder: str = ""
    system_package: str = ""
    label_sums: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def byte_mean(self) -> tuple[float, ...]:
        """``mean`` in the units of bytes, 0 to 255."""
        return tuple(255 * value for value in self.mean)

    @property
    def byte_std(self) -> tuple[float, ...]:
        """``std`` in the units of bytes."""
        return tuple(255 * value for value in self.std)

    @property
    def packs(self) -> tuple[str, ...]:
        """Endings that a file's name may have."""
        return ("",) if self.label_bytes else ("", ".gz")


# MindCV's (data/transforms_factory.py, 0.3), for CIFAR-100, too.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR10_SPLITS = {
    "train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    "test": ("test_batch.bin",),
}
_IDX_SPLITS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ARRAY_SETS = {
    "cifar10": ArraySet(
        title="CIFAR-10",
        folder="cifar-10-batches-bin",
        splits=_CIFAR10_SPLITS,
        shape=(3, 32, 32),
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
        names_file="batches.meta.txt",
        pickled_folder="cifar-10-batches-py",
        label_bytes=1,
        counts={file: 10_000 for files in _CIFAR10_SPLITS.values() for file in files},
    ),
    "cifar100": ArraySet(
        title="CIFAR-100",
        folder="cifar-100-binary",
        splits={"train": ("train.bin",), "test": ("test.bin",)},
        shape=(3, 32, 32),
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
        names_file="fine_label_names.txt",
        pickled_folder="cifar-100-python",
        num_classes=100,
        label_bytes=2,
        counts={"train.bin": 50_000, "test.bin": 10_000},
    ),
    "mnist": ArraySet(
        title="MNIST",
        folder="",
        splits=_IDX_SPLITS,
        shape=(1, 28, 28),
        mean=(0.1307,),
        std=(0.3081,),
        classes=tuple("0123456789"),
    ),
    "fashion_mnist": ArraySet(
        title="Fashion-MNIST",
        folder="fashion-mnist",
        splits=_IDX_SPLITS,
        shape=(1, 28, 28),
        mean=(0.2860,),
        std=(0.3530,),
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        system_folder="/usr/share/datasets/fashion-mnist",
        system_package="Debian's package dataset-fashion-mnist",
        label_sums={
            "train": (60_000, "3236f6424fc25388b2834cb19942cf7e"),
            "test": (10_000, "8dea97a4e78c1bd1b5a6e8efbb870b6e"),
        },
    ),
}
