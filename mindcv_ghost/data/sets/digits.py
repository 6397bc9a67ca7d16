"""scikit-learn's handwritten digits as an image folder: real data that needs no download.

1,797 scans of 8x8 pixels by 43 writers (Alpaydin and Kaynak, UCI, 1998, the test part of "Optical
Recognition of Handwritten Digits"). 360 of them are held out for validation, stratified. The split
is fixed and doesn't depend on the run's seed, so that accuracies of all runs can be compared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

import numpy as np
from PIL import Image

from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError

__all__ = ["DIGITS_FOLDER", "DIGITS_HELD_OUT", "write_digits"]

DIGITS_FOLDER = "digits"
DIGITS_HELD_OUT = 360
_SPLITS = ("train", "val")
_IMAGES = {"train": 1797 - DIGITS_HELD_OUT, "val": DIGITS_HELD_OUT}
_SPLIT_SEED = 0
_SIDE = 64  # pixels; each of the scan's becomes a smooth patch of 8x8


def write_digits(data_dir: str) -> str:
    """Write the digits to ``data_dir/digits/{train,val}/0..9`` unless they exist.

    ``data_dir`` itself is used if its name is ``digits``. If it is ``./``, the default, the folder
    is ``./data/digits``. Several ranks or jobs may call this at the same time: each writes a
    temporary folder, and the first one to finish renames it into place.

    Args:
        data_dir: parent folder of the digits.

    Returns:
        The folder with ``train`` and ``val``.

    Raises:
        DataError: if scikit-learn isn't installed, or the folder can't be written or holds
            something else.
    """
    folder = _digits_folder(data_dir)
    if _is_complete(folder):
        return folder
    if os.path.isdir(folder) and os.listdir(folder):
        raise DataError(
            f"{printable(folder)} exists but isn't the digits as this program writes them (10 "
            f"class folders each in train and val, {_IMAGES['train']:,} images in train and "
            f"{_IMAGES['val']} in val). Remove it, or give another --data_dir."
        )
    images, labels = _load()
    parent = os.path.dirname(os.path.abspath(folder))
    try:
        os.makedirs(parent, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".digits-", dir=parent)
    except OSError as error:
        raise DataError(
            f"the digits can't be written to {printable(parent)}: {error.strerror}. Give a "
            "--data_dir that can be written to."
        ) from None
    try:
        _write(scratch, images, labels)
        os.chmod(scratch, 0o755)  # mkdtemp makes them private
        # On Linux a rename replaces an empty folder, and fails on a full one: another rank's.
        with contextlib.suppress(OSError):
            os.rename(scratch, folder)
    except OSError as error:
        raise DataError(f"the digits can't be written to {printable(folder)}: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not _is_complete(folder):
        raise DataError(
            f"the digits can't be written to {printable(folder)}: something else is there"
        )
    return folder


def _digits_folder(data_dir: str) -> str:
    if os.path.abspath(data_dir) == os.getcwd():
        return os.path.join("data", DIGITS_FOLDER)
    if os.path.basename(os.path.abspath(data_dir)) == DIGITS_FOLDER:
        return data_dir
    return os.path.join(data_dir, DIGITS_FOLDER)


def _is_complete(folder: str) -> bool:
    """Whether a folder has the digits' classes, and in each split as many images."""
    try:
        return all(_count(os.path.join(folder, split)) == _IMAGES[split] for split in _SPLITS)
    except OSError:
        return False


def _count(split: str) -> int | None:
    """Count the images of a split; None if its classes aren't the digits."""
    classes = [name for name in os.listdir(split) if not name.startswith(".")]
    if sorted(classes) != [str(k) for k in range(10)]:
        return None
    files = [file for name in classes for file in os.listdir(os.path.join(split, name))]
    return sum(file.endswith(".png") and not file.startswith(".") for file in files)


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Load the scans, uint8 (1797, 8, 8), and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "--dataset digits takes its images from scikit-learn, which isn't installed. Run: "
            "pip install scikit-learn"
        ) from None
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Mark the scans for validation, bool (1797,)."""
    from sklearn.model_selection import train_test_split

    _, held_out = train_test_split(
        np.arange(len(labels)),
        test_size=DIGITS_HELD_OUT,
        stratify=labels,
        random_state=_SPLIT_SEED,
    )
    mask = np.zeros(len(labels), bool)
    mask[held_out] = True
    return mask


def _write(folder: str, images: np.ndarray, labels: np.ndarray) -> None:
    held_out = _held_out(labels)
    for split in _SPLITS:
        for label in range(10):
            os.makedirs(os.path.join(folder, split, str(label)))
    for index, (image, label) in enumerate(zip(images, labels)):  # noqa: B905 (Python 3.9)
        scan = Image.fromarray(image).resize((_SIDE, _SIDE), Image.BICUBIC)
        split = _SPLITS[int(held_out[index])]
        scan.save(os.path.join(folder, split, str(int(label)), f"{index:04d}.png"))
