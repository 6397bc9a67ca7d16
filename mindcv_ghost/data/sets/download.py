"""Download CIFAR, MNIST and Fashion-MNIST: from mirrors, checked by MD5 sum, then unpacked.

A transfer that was cut off goes on where it stopped, also after a new start: what there is stays in
a file ``.NAME.part``. Every address uses TLS.

MindCV's download class isn't used: it (0.3) downloads over plain HTTP, checks no sum, and unpacks
with ``tarfile.extractall`` wherever the archive's names point.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.data.sets.unpack import file_members, gunzip
from mindcv_ghost.errors import DataError
from mindcv_ghost.storage.atomic_file import move_into_place
from mindcv_ghost.storage.download import DownloadError, fetch_part, part_of
from mindcv_ghost.storage.provenance import digest_of

__all__ = ["ARCHIVES", "Archive", "download"]

# What an archive may unpack to: CIFAR-10 has 184 MB, CIFAR-100 185 MB, MNIST's largest file 47 MB.
_LARGEST = 300_000_000


class _OtherFileError(DataError):
    """A file that isn't the set's has the name of one."""


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Args:
        urls: of the file at each mirror, the best first.
        md5: its sum, as MindCV and torchvision have it. MD5 is enough here: collisions can be made,
            but no file can be forged for a given sum.
        files: members to unpack; of a gzip file, the name of the unpacked file.
    """

    urls: tuple[str, ...]
    md5: str
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.urls[0].rpartition("/")[2]


# yann.lecun.com, the original server, which MindCV still uses, answers 403.
_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Zalando's own S3 address, which torchvision uses, has no TLS.
_FASHION_MNIST = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)


def _idx(mirrors: tuple[str, ...], name: str, md5: str) -> Archive:
    return Archive(tuple(f"{mirror}{name}.gz" for mirror in mirrors), md5, (name,))


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "cifar10": (
        Archive(
            (_TORONTO + "cifar-10-binary.tar.gz",),
            "c32a1d4ab5d03f1284b67883e8d87530",
            (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
        ),
    ),
    "cifar100": (
        Archive(
            (_TORONTO + "cifar-100-binary.tar.gz",),
            "03b5dce01913d631647c71ecec9e9cb8",
            ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"),
        ),
    ),
    "mnist": (
        _idx(_MNIST, "train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _idx(_MNIST, "train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
        _idx(_MNIST, "t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
        _idx(_MNIST, "t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "fashion_mnist": (
        _idx(_FASHION_MNIST, "train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        _idx(_FASHION_MNIST, "train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
        _idx(_FASHION_MNIST, "t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
        _idx(_FASHION_MNIST, "t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
"""Data set -> its archives."""


def download(name: str, folder: str, *, is_alone: bool = True) -> None:
    """Download the files of a data set that are missing; each one appears whole or not at all.

    Files that are there aren't changed.

    Args:
        name: one of ``ARCHIVES``.
        folder: where the files go; created if it doesn't exist.
        is_alone: whether no other process downloads into this folder; if one may, an archive that
            doesn't arrive whole is not continued by the next call.

    Raises:
        DataError: if a file can't be downloaded or written, its sum is wrong, or another file has
            the name of an archive or of a file in it.
    """
    missing = [archive for archive in ARCHIVES[name] if not _is_unpacked(archive, folder)]
    _refuse_other_files(name, missing, folder)
    try:
        os.makedirs(folder, exist_ok=True)
        if is_alone:
            _remove_leftovers(name, folder)
        scratch = tempfile.mkdtemp(prefix=f".{name}-", dir=folder)
    except OSError as error:
        raise DataError(f"{folder} can't be written: {error.strerror or error}") from None
    try:
        for archive in missing:
            _install(archive, scratch, folder, is_alone)
    except _OtherFileError:
        raise
    except (OSError, DataError) as error:
        package = ARRAY_SETS[name].system_package
        parts = [part_of(Path(folder, archive.name)) for archive in ARCHIVES[name]]
        kept = any(part.exists() and part.stat().st_size for part in parts)
        raise DataError(
            f"{name} can't be downloaded to {printable(os.path.abspath(folder))}: {error}\n"
            + ("What has arrived is kept, and the next start goes on from there. " if kept else "")
            + "Without a network, "
            + (f"install {package} and leave --data_dir out, or " if package else "")
            + "download these files elsewhere, unpack them and point --data_dir at their folder:"
            + "".join(f"\n  {archive.urls[0]}" for archive in ARCHIVES[name])
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_leftovers(name: str, folder: str) -> None:
    """Remove what processes were killed over while they unpacked, up to 185 MB each."""
    for entry in os.scandir(folder):
        if re.fullmatch(rf"\.{name}-[a-z0-9_]{{8}}", entry.name) and entry.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)


def _is_unpacked(archive: Archive, folder: str) -> bool:
    return all(os.path.isfile(os.path.join(folder, file)) for file in archive.files)


def _refuse_other_files(name: str, archives: Sequence[Archive], folder: str) -> None:
    """Raise an error if a file has an archive's name, but isn't that archive.

    It is a user's, because downloads don't get this name, and would be unpacked. KMNIST's files
    have the names of MNIST's.
    """
    for archive in archives:
        path = os.path.join(folder, archive.name)
        try:
            if not os.path.lexists(path) or digest_of(Path(path), "md5") == archive.md5:
                continue
            reason = f"isn't {ARRAY_SETS[name].title}'s file of this name: its MD5 sum differs"
        except OSError as problem:
            reason = f"can't be read ({problem.strerror or problem})"
        raise DataError(
            f"{printable(os.path.abspath(path))} {reason}. Nothing was downloaded or changed. Move "
            "it away, or give another folder with --data_dir."
        )


def _refuse_changed_files(archive: Archive, scratch: str, folder: str) -> None:
    """Raise an error if a file that is there isn't the archive's.

    It may be a user's, or what a full disk left of one; nobody but the user can tell.
    """
    for file in archive.files:
        path = os.path.join(folder, file)
        if not os.path.lexists(path) or (
            os.path.isfile(path) and filecmp.cmp(os.path.join(scratch, file), path, shallow=False)
        ):
            continue
        raise _OtherFileError(
            f"{printable(os.path.abspath(path))} isn't the file of this name in {archive.name}. "
            "Nothing was changed. Remove it to get the archive's, or give another folder with "
            "--data_dir."
        )


def _install(archive: Archive, scratch: str, folder: str, is_alone: bool) -> None:
    users = Path(folder, archive.name)  # _refuse_other_files has compared it
    is_users = users.exists()
    packed = (
        users if is_users else _fetch(archive, users if is_alone else Path(scratch, users.name))
    )
    if archive.name.endswith(".tar.gz"):
        wanted = dict.fromkeys(archive.files, _LARGEST)
        for name, content in file_members(str(packed), wanted, largest=_LARGEST):
            with open(os.path.join(scratch, name), "wb") as file:
                file.write(content)
    else:
        gunzip(str(packed), os.path.join(scratch, archive.files[0]), largest=_LARGEST)
    missing = [name for name in archive.files if not os.path.exists(os.path.join(scratch, name))]
    if missing:
        raise DataError(f"{archive.name} lacks {', '.join(missing)}")
    _refuse_changed_files(archive, scratch, folder)
    for name in archive.files:
        if not os.path.exists(os.path.join(folder, name)):
            move_into_place(Path(scratch, name), Path(folder, name))
    if not is_users:
        packed.unlink()


def _fetch(archive: Archive, path: Path) -> Path:
    """Download an archive from the first mirror that has it, with the right sum.

    It doesn't get its name: a process that is killed before it is unpacked would leave what looks
    like a user's file.

    Args:
        archive: to download.
        path: it would have.

    Returns:
        Where it is.
    """
    problems = []
    for url in archive.urls:
        try:
            return fetch_part(url, path, f"md5:{archive.md5}", _LARGEST)
        except DownloadError as problem:
            problems.append(f"\n  {url}: {problem}")
    raise DataError("".join(problems))
