"""Download CIFAR and MNIST: over TLS, checked by MD5 sum, then unpacked.

MindCV's download class isn't used: it (0.3) downloads over plain HTTP, checks no sum, and unpacks
with ``tarfile.extractall`` wherever the archive's names point.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass

from mindcv_ghost.data.sets.unpack import file_members, gunzip
from mindcv_ghost.errors import DataError

__all__ = ["ARCHIVES", "Archive", "download"]

_CHUNK = 2**20
_TIMEOUT = 60  # seconds without a byte
# What an archive may unpack to: CIFAR-10 has 184 MB, CIFAR-100 185 MB, MNIST's largest file 47 MB.
_LARGEST = 300_000_000


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Args:
        url: of the file.
        md5: its sum, as MindCV and torchvision have it. MD5 is enough here: collisions can be made,
            but no file can be forged for a given sum.
        files: members to unpack; of a gzip file, the name of the unpacked file.
    """

    url: str
    md5: str
    files: tuple[str, ...]


def _mnist(name: str, md5: str) -> Archive:
    # yann.lecun.com, the original server, which MindCV still uses, answers 403.
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"
    return Archive(url, md5, (name,))


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "cifar10": (
        Archive(
            _TORONTO + "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
        ),
    ),
    "cifar100": (
        Archive(
            _TORONTO + "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"),
        ),
    ),
    "mnist": (
        _mnist("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _mnist("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
        _mnist("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
        _mnist("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
}
"""Data set -> its archives."""


def download(name: str, folder: str) -> None:
    """Download the files of a data set that are missing; each one appears whole or not at all.

    Args:
        name: "cifar10", "cifar100" or "mnist".
        folder: where the files go; created if it doesn't exist.

    Raises:
        DataError: if a file can't be downloaded or written, or its sum is wrong.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=f".{name}-", dir=folder)
    except OSError as error:
        raise DataError(f"{folder} can't be written: {error.strerror or error}") from None
    try:
        for archive in ARCHIVES[name]:
            if all(os.path.isfile(os.path.join(folder, file)) for file in archive.files):
                continue
            _install(archive, scratch, folder)
    except (OSError, urllib.error.URLError, ValueError) as error:  # ValueError: http.client's
        raise DataError(
            f"{name} can't be downloaded to {os.path.abspath(folder)}: {error}. Download "
            f"{' '.join(archive.url for archive in ARCHIVES[name])} by hand, unpack them and point "
            "--data_dir at the folder of the binary files."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _install(archive: Archive, scratch: str, folder: str) -> None:
    packed = os.path.join(scratch, "packed")
    _fetch(archive, packed)
    if archive.url.endswith(".tar.gz"):
        wanted = dict.fromkeys(archive.files, _LARGEST)
        for name, content in file_members(packed, wanted, largest=_LARGEST):
            with open(os.path.join(scratch, name), "wb") as file:
                file.write(content)
    else:
        gunzip(packed, os.path.join(scratch, archive.files[0]), largest=_LARGEST)
    missing = [name for name in archive.files if not os.path.exists(os.path.join(scratch, name))]
    if missing:
        raise DataError(f"{archive.url} lacks {', '.join(missing)}")
    for name in archive.files:
        os.replace(os.path.join(scratch, name), os.path.join(folder, name))


def _fetch(archive: Archive, path: str) -> None:
    """Download an archive to a path and check its sum."""
    digest, length = hashlib.md5(usedforsecurity=False), 0
    with urllib.request.urlopen(archive.url, timeout=_TIMEOUT) as answer, open(path, "wb") as file:
        for chunk in iter(lambda: answer.read(_CHUNK), b""):
            length += len(chunk)
            if length > _LARGEST:
                raise DataError(f"{archive.url} is larger than {_LARGEST:,} bytes: not that set")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != archive.md5:
        raise DataError(
            f"{archive.url} gave {length:,} bytes with the MD5 sum {digest.hexdigest()} instead "
            f"of {archive.md5}: cut off, or another file. Try again, or download it by hand."
        )
