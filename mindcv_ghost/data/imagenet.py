r"""Sort ImageNet (ILSVRC 2012) into class folders, and check it.

    python -m mindcv_ghost.data.imagenet sort-val --val_dir ImageNet/val \
        --devkit ILSVRC2012_devkit_t12.tar.gz [--dry_run]
    python -m mindcv_ghost.data.imagenet check --data_dir ImageNet [--every_file]

The validation archive unpacks to 50,000 files in one folder; the devkit has their classes.
``sort-val`` moves each into its class's folder (n01440764, ...). It checks all files before it
moves any, never overwrites, and continues where an interrupted run stopped. ``check`` counts both
splits, and with ``--every_file`` reads every image as training would (about 60 us of a core an
image, plus the disk's time).
"""

from __future__ import annotations

import argparse
import io
import os
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mindcv_ghost.compat import usable_cores
from mindcv_ghost.data.sets.image_folder import FolderSource
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.data.sets.unpack import file_members
from mindcv_ghost.errors import DataError, UserError

__all__ = ["check_folder", "main", "read_devkit", "sort_val"]

CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_MAX_MEMBER_BYTES = 16 * 2**20  # the real ones have 200 kB; more would be another file or a bomb
_MAX_ARCHIVE_BYTES = 256 * 2**20  # unpacked; the real one has 2.5 MB packed
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$")
_WNID = re.compile(r"n\d{8}$")


def read_devkit(path: str) -> list[str]:
    """Read the WordNet ID ("n01440764") of each validation image, in the order of their numbers.

    Args:
        path: ``ILSVRC2012_devkit_t12.tar.gz``, or the folder it unpacks to. Two members of an
            archive are read in memory; no file is written.

    Raises:
        DataError: if it isn't a devkit, or its two files don't fit together.
    """
    truth = _devkit_file(path, _TRUTH).decode("ascii", "replace").split()
    wnids = _class_ids(_devkit_file(path, _META))
    try:
        numbers = [int(line) for line in truth]
        ids = [wnids[number] for number in numbers]
    except (ValueError, KeyError) as error:
        raise DataError(f"{_TRUTH} in {printable(path)} has no class for {error}") from None
    if not ids:
        raise DataError(f"{_TRUTH} in {printable(path)} is empty")
    return ids


def _devkit_file(path: str, name: str) -> bytes:
    if os.path.isdir(path):
        for folder in ("", "data", os.path.join("ILSVRC2012_devkit_t12", "data")):
            file = os.path.join(path, folder, name)
            if os.path.isfile(file) and os.path.getsize(file) <= _MAX_MEMBER_BYTES:
                with open(file, "rb") as opened:
                    return opened.read()
        raise DataError(f"the devkit folder {printable(path)} has no data/{name}")
    try:
        wanted = {name: _MAX_MEMBER_BYTES}
        for _, content in file_members(path, wanted, largest=_MAX_ARCHIVE_BYTES):
            return content
    except DataError as error:
        raise DataError(
            f"the devkit can't be read: {error}. Give ILSVRC2012_devkit_t12.tar.gz "
            "(from image-net.org, where the images are) or the folder it unpacks to."
        ) from None
    raise DataError(f"{printable(path)} has no {name}: is it ILSVRC2012_devkit_t12.tar.gz?")


def _class_ids(meta: bytes) -> dict[int, str]:
    """Read the WordNet ID of each class without subclasses (numbers 1 to 1,000)."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(f"{_META} is read by scipy; install it: pip install scipy") from None
    try:
        _check_unpacked_size(meta)
        synsets = loadmat(io.BytesIO(meta), variable_names=["synsets"], squeeze_me=True)["synsets"]
        leaves = [row for row in np.atleast_1d(synsets) if int(row["num_children"]) == 0]
        ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    except Exception as error:  # scipy raises nearly anything for another kind of file
        raise DataError(f"{_META} isn't the devkit's: {error or type(error).__name__}") from error
    strange = [wnid for wnid in ids.values() if not _WNID.match(wnid)]
    if strange:  # they become names of folders
        raise DataError(f"{_META} has invalid WordNet IDs: {strange[:3]}")
    return ids


def _check_unpacked_size(meta: bytes) -> None:
    """Raise ValueError if the compressed elements of a MATLAB file unpack to too many bytes.

    scipy unpacks each element whole: 16 MB could become 16 GB.
    """
    position, left = 128, _MAX_MEMBER_BYTES
    while position + 8 <= len(meta):
        kind, length = struct.unpack_from("<II", meta, position)
        if kind == 15:  # miCOMPRESSED
            unpacked = zlib.decompressobj().decompress(
                meta[position + 8 : position + 8 + length], left + 1
            )
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"it unpacks to more than {_MAX_MEMBER_BYTES:,} bytes")
        position += 8 + length


@dataclass
class _Plan:
    """Files to move, files in place already, and problems."""

    moves: list[tuple[str, str]] = field(default_factory=list)  # file name, class folder
    done: int = 0
    problems: list[str] = field(default_factory=list)


def sort_val(val_dir: str, devkit: str, dry_run: bool = False) -> _Plan:
    """Move the validation images into class folders.

    Args:
        val_dir: folder with ``ILSVRC2012_val_00000001.JPEG`` and so on, some perhaps sorted.
        devkit: see ``read_devkit``.
        dry_run: check, but move nothing.

    Returns:
        What was moved, or would be.

    Raises:
        DataError: before anything is moved, if a file is missing, there twice, in the wrong class's
            folder, or not one of the images.
    """
    wnids = read_devkit(devkit)
    if not os.path.isdir(val_dir):
        raise DataError(f"there is no folder {printable(val_dir)}")
    plan = _plan(val_dir, wnids)
    if plan.problems:
        more = len(plan.problems) - 10
        raise DataError(
            f"{printable(val_dir)} doesn't have exactly the {len(wnids):,} validation images; "
            "nothing was moved:\n  "
            + "\n  ".join(plan.problems[:10])
            + (f"\n  ... and {more:,} more" if more > 0 else "")
        )
    if dry_run:
        return plan
    for wnid in sorted(set(wnids)):
        os.makedirs(os.path.join(val_dir, wnid), exist_ok=True)
    for name, wnid in plan.moves:
        target = os.path.join(val_dir, wnid, name)
        if os.path.lexists(target):  # rename would replace it
            raise DataError(
                f"{printable(target)} has appeared since the check: is another sort-val running?"
            )
        os.rename(os.path.join(val_dir, name), target)
    return plan


def _plan(val_dir: str, wnids: Sequence[str]) -> _Plan:
    plan = _Plan()
    found: dict[int, str] = {}
    known = set(wnids)
    for entry in sorted(os.scandir(val_dir), key=lambda item: item.name):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            _add_file(plan, found, wnids, entry.name, None)
        elif entry.name in known:
            for name in sorted(os.listdir(entry.path)):
                _add_file(plan, found, wnids, name, entry.name)
        else:
            plan.problems.append(f"{printable(entry.name)}/ isn't a class of ImageNet")
    missing = [number for number in range(1, len(wnids) + 1) if number not in found]
    if missing:
        first = ", ".join(f"ILSVRC2012_val_{number:08d}.JPEG" for number in missing[:3])
        plan.problems.insert(0, f"{len(missing):,} images are missing: {first}, ...")
    return plan


def _add_file(
    plan: _Plan, found: dict[int, str], wnids: Sequence[str], name: str, folder: str | None
) -> None:
    """Add one file to the plan."""
    if name.startswith("."):
        return
    where = f"{folder}/{printable(name)}" if folder else printable(name)
    match = _VAL_NAME.match(name)
    number = int(match.group(1)) if match else 0
    if not 1 <= number <= len(wnids):
        plan.problems.append(f"{where} isn't one of the {len(wnids):,} images")
    elif number in found:
        plan.problems.append(f"{where} is there twice, also as {found[number]}")
    elif folder is None:
        plan.moves.append((name, wnids[number - 1]))
    elif folder != wnids[number - 1]:
        plan.problems.append(f"{where} belongs in {wnids[number - 1]}/")
    else:
        plan.done += 1
    found.setdefault(number, where)


def check_folder(
    data_dir: str,
    *,
    classes: int = CLASSES,
    train_images: int = TRAIN_IMAGES,
    val_images: int = VAL_IMAGES,
    every_file: bool = False,
) -> list[str]:
    """Count the classes and images of ``train`` and ``val``.

    Args:
        data_dir: folder with ``train`` and ``val``.
        classes: expected number of classes.
        train_images: expected number of training images.
        val_images: expected number of validation images.
        every_file: also read every image.

    Returns:
        The lines of a report.

    Raises:
        DataError: if the layout of the folders isn't legal, a number isn't the expected one, or
            (with ``every_file``) an image can't be read.
    """
    report: list[str] = []
    wrong: list[str] = []
    names: tuple[str, ...] | None = None
    for split, expected in (("train", train_images), ("val", val_images)):
        source = FolderSource(os.path.join(data_dir, split), classes=names, on_bad_image="skip")
        names = source.classes
        report.append(f"{split}: {source.num_classes:,} classes, {len(source):,} images")
        if (source.num_classes, len(source)) != (classes, expected):
            wrong.append(f"{report[-1]}; expected {classes:,} and {expected:,}")
        if every_file:
            _read_all(source)
            report.append(f"{split}: {len(source.bad):,} images can't be read")
            wrong += [f"{printable(path)}: {reason}" for path, reason in sorted(source.bad.items())]
    if wrong:
        raise DataError(f"{printable(data_dir)} isn't complete:\n  " + "\n  ".join(wrong))
    return report


def _read_all(source: FolderSource) -> None:
    def read(start: int) -> None:
        for index in range(start, min(start + 256, len(source))):
            try:
                source[index]
            except DataError:
                continue  # recorded in source.bad

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(read, range(0, len(source), 256)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindcv_ghost.data.imagenet", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sort = commands.add_parser("sort-val", help="move the validation images into class folders")
    sort.add_argument("--val_dir", required=True, help="folder of the 50,000 unpacked files")
    sort.add_argument("--devkit", required=True, help="ILSVRC2012_devkit_t12.tar.gz or its folder")
    sort.add_argument("--dry_run", action="store_true", help="check, but move nothing")
    check = commands.add_parser("check", help="count train and val")
    check.add_argument("--data_dir", required=True, help="folder with train/ and val/")
    check.add_argument("--every_file", action="store_true", help="also read every image")
    expected = {"classes": CLASSES, "train_images": TRAIN_IMAGES, "val_images": VAL_IMAGES}
    for key, value in expected.items():
        check.add_argument(f"--{key}", type=int, default=value, help=f"expected, default {value}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status (0, or 2 after an ``error:`` line)."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "sort-val":
            plan = sort_val(args.val_dir, args.devkit, args.dry_run)
            moved = "would be moved" if args.dry_run else "moved"
            print(f"{len(plan.moves):,} images {moved}, {plan.done:,} were in place already")
        else:
            options = {key: getattr(args, key) for key in ("classes", "train_images", "val_images")}
            report = check_folder(args.data_dir, every_file=args.every_file, **options)
            print("\n".join(report))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
