"""scikit-learn's handwritten digits as an image folder: real data that needs no download.

1,797 scans of 8x8 pixels by 43 writers (Alpaydin and Kaynak, UCI, 1998, the test part of "Optical
Recognition of Handwritten Digits"), of which 360 are held out, stratified, with a fixed split that
doesn't depend on the run's seed: an accuracy on them means the same in every run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

import numpy as np
from PIL import Image

from mindcv_ghost.data.sets.image_folder import shown
from mindcv_ghost.errors import DataError

__all__ = ["DIGITS_FOLDER", "DIGITS_HELD_OUT", "write_digits"]

DIGITS_FOLDER = "digits"
DIGITS_HELD_OUT = 360
_SPLIT_SEED = 0
_SIDE = 64  # pixels; each scanned one becomes a smooth patch of 8x8


def write_digits(data_dir: str) -> str:
    """Write the digits to ``data_dir/digits/{train,val}/0..9`` unless they are there.

    ``data_dir`` itself is taken if it is that folder already, and ``./data/digits`` if it is the
    default "./". Several ranks or jobs may call this at once: each writes a folder of its own and
    the first one's is renamed into place.

    Returns:
        The folder with ``train`` and ``val``.

    Raises:
        DataError: if scikit-learn isn't installed, the folder can't be written or holds something
            else.
    """
    folder = _place(data_dir)
    if _is_complete(folder):
        return folder
    if os.path.isdir(folder) and os.listdir(folder):
        raise DataError(
            f"{shown(folder)} exists but isn't the digits as this program writes them (10 class "
            f"folders each in train and val, {DIGITS_HELD_OUT} images in val). Remove it, or give "
            "another --data_dir."
        )
    images, labels = _load()
    parent = os.path.dirname(os.path.abspath(folder))
    try:
        os.makedirs(parent, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".digits-", dir=parent)
    except OSError as error:
        raise DataError(
            f"the digits can't be written to {shown(parent)}: {error.strerror}. Give a --data_dir "
            "that can be written to."
        ) from None
    try:
        _write(scratch, images, labels)
        os.chmod(scratch, 0o755)  # mkdtemp's folders are for their owner alone
        # On Linux a rename replaces an empty folder and refuses a full one: another rank's.
        with contextlib.suppress(OSError):
            os.rename(scratch, folder)
    except OSError as error:
        raise DataError(f"the digits can't be written to {shown(folder)}: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not _is_complete(folder):
        raise DataError(f"the digits can't be written to {shown(folder)}: something else is there")
    return folder


def _place(data_dir: str) -> str:
    if os.path.abspath(data_dir) == os.getcwd():
        return os.path.join("data", DIGITS_FOLDER)
    if os.path.basename(os.path.abspath(data_dir)) == DIGITS_FOLDER:
        return data_dir
    return os.path.join(data_dir, DIGITS_FOLDER)


def _is_complete(folder: str) -> bool:
    """Whether a folder is the digits; it got its name only when all of them were in it."""
    try:
        names = {split: sorted(os.listdir(os.path.join(folder, split))) for split in _SPLITS}
    except OSError:
        return False
    return all(
        [name for name in names[split] if not name.startswith(".")] == [str(k) for k in range(10)]
        for split in _SPLITS
    )


_SPLITS = ("train", "val")


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Scans, uint8 (1797, 8, 8), and labels."""
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
    """Which scans are for validation, bool (1797,)."""
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
