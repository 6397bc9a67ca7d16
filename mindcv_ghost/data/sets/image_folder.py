"""A folder of class folders, as ImageNet and MindCV lay it out: listed once, read image by image.

Cost of the listing, at every start and on every rank: one ``os.listdir`` a class and no ``stat`` of
any file. Measured with 1,000 folders of 1,281 files on a local disk, 2 cores: 2.2 s warm (1.1 s of
CPU), 4.0 s with cold caches; it grows with the number of files. On a network file system expect
one round trip a class. Names are stored as bytes, 26 MB for these 1.28 million (as Python strings
110 MB), because every rank on a machine holds them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np

from mindcv_ghost.data.sets.image_file import BadImage, central_part, prepare, read_file
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError, near_names

__all__ = [
    "EXTENSIONS",
    "FolderSource",
    "class_folders",
    "count_folders",
    "refuse_other_classes",
]

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
EXTENSIONS = (*_JPEG, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
KEEP_FILES = (".keep", ".gitkeep")  # in a class folder that is empty on purpose
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "lost+found"}
_ILSVRC_VAL = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG$", re.IGNORECASE)
_LISTED = 10  # problems of one kind that a message lists


class FolderSource:
    """The images of one split; a label is the index of the folder's name in ``classes``.

    Args:
        root: folder of class folders.
        classes: names in the order of their labels, e.g. the training split's. None: the folders
            in the order of MindSpore's ``ImageFolderDataset`` (sorted as bytes). If names are
            given, an extra or missing folder raises, so that labels never shift.
        on_bad_image: "stop" or "skip"; the loader acts on it.
        in_channels: of the network; 1 makes the transforms turn colours grey.

    Attributes:
        bad: path -> reason of the bad images found so far.

    Raises:
        DataError: with every problem of the folder's layout in one message.
    """

    encoded = True
    kind = "imagenet"

    def __init__(
        self,
        root: str,
        *,
        classes: Sequence[str] | None = None,
        on_bad_image: str = "stop",
        in_channels: int = 3,
    ):
        self.root = os.path.abspath(root)
        self.in_channels = in_channels
        self.on_bad_image = on_bad_image
        self.bad: dict[str, str] = {}
        self.folders = class_folders(root)
        self.classes = tuple(self.folders if classes is None else classes)
        if classes is not None:
            refuse_other_classes("the training split", self.classes, self.root, self.folders)
        self._names: list[np.ndarray] = []
        starts = [0]
        problems = _Problems(self.root)
        has_folder = set(self.folders)
        for name in self.classes:
            files = problems.scan(name) if name in has_folder else []
            # A NumPy array of bytes: no Python object for each of a million names.
            self._names.append(np.array([os.fsencode(file) for file in files], dtype=np.bytes_))
            starts.append(starts[-1] + len(files))
        problems.raise_if_any(images=starts[-1])
        self._starts = np.array(starts, dtype=np.int64)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def label_of(self, index: int) -> int:
        """Return the label of an image, without reading it."""
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def name_of(self, index: int) -> str:
        """Return the path of an image."""
        return self._locate(index)[0]

    def _locate(self, index: int) -> tuple[str, int]:
        label = self.label_of(index)
        name = os.fsdecode(bytes(self._names[label][index - self._starts[label]]))
        return os.path.join(self.root, self.classes[label], name), label

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Read an image: encoded bytes that MindSpore can decode, uint8 (bytes,), and the label.

        Raises:
            DataError: if the file can't be read or decoded; ``bad`` then holds the reason.
        """
        data, label = self.read(index)
        try:
            return prepare(data), label
        except BadImage as problem:
            raise self.found_bad(index, str(problem)) from None

    def read_centre(self, index: int) -> tuple[np.ndarray, int]:
        """Read an image as ``[]`` does, of a long ribbon only the middle (``central_part``)."""
        image, label = self[index]
        try:
            return central_part(image), label
        except BadImage as problem:
            raise self.found_bad(index, str(problem)) from None

    def read(self, index: int) -> tuple[bytes, int]:
        """Read a file as it is; return its bytes and the label.

        Raises:
            DataError: if the file can't be read; ``bad`` then holds the reason.
        """
        path, label = self._locate(index)
        try:
            return read_file(path), label
        except BadImage as problem:
            reason = str(problem)
        except OSError as problem:
            reason = f"can't be read: {problem.strerror or problem}"
        raise self.found_bad(index, reason)

    def found_bad(self, index: int, reason: str) -> DataError:
        """Record in ``bad`` that an image is bad, and return the error to raise."""
        path = self.name_of(index)
        self.bad[path] = reason
        return DataError(
            f"{printable(path)}: {reason}\n"
            "Repair or remove this file, or skip bad images with --on_bad_image skip."
        )


class _Problems:
    """Collects what is wrong with the class folders of one split, for one message."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.empty: list[str] = []
        self.stray: list[str] = []
        self.nested: list[str] = []

    def scan(self, name: str) -> list[str]:
        """List the image files of one class folder, sorted as bytes."""
        folder = os.path.join(self.root, name)
        try:
            entries = os.listdir(folder)
        except OSError as error:
            raise DataError(f"{printable(folder)} can't be listed: {error.strerror}") from None
        files, empty_on_purpose = [], False
        for entry in entries:
            if entry.lower().endswith(EXTENSIONS) and entry[0] != ".":
                files.append(entry)
            elif entry[0] == "." or entry.lower() in _SYSTEM_FILES:
                empty_on_purpose = empty_on_purpose or entry in KEEP_FILES
            elif os.path.isdir(os.path.join(folder, entry)):
                self.nested.append(os.path.join(name, entry) + os.sep)
            else:
                self.stray.append(os.path.join(name, entry))
        if not files and not empty_on_purpose:
            self.empty.append(name + os.sep)
        files.sort(key=os.fsencode)
        return files

    def raise_if_any(self, images: int) -> None:
        """Raise one DataError with every kind of problem, ten names of each."""
        if not images and not (self.stray or self.nested):
            raise DataError(
                f"{printable(self.root)} has class folders but not one image in them. "
                f"Expected {printable(self.root)}/CLASS/IMAGE.jpg ({' '.join(EXTENSIONS)})."
            )
        kinds = [
            (
                self.empty,
                "class folder ~ without an image",
                "put its images in or remove it; if it is empty on purpose, put an empty file "
                f"{KEEP_FILES[0]} into it",
            ),
            (
                self.stray,
                "stray file ~ (no image)",
                f"remove it (images end in {' '.join(EXTENSIONS)}; hidden files don't matter)",
            ),
            (
                self.nested,
                "nested folder ~ (its images would be left out)",
                "move its images up or away",
            ),
        ]
        parts = [
            f"{_count(len(names), what)}:\n"
            + "\n".join(f"  {printable(name)}" for name in sorted(names)[:_LISTED])
            + f"{_more(len(names))}\n  -> {fix}"
            for names, what, fix in kinds
            if names
        ]
        if parts:
            raise DataError(f"in {printable(self.root)}:\n" + "\n".join(parts))


def class_folders(root: str) -> list[str]:
    """List the class folders of a split, sorted as MindSpore's ``ImageFolderDataset`` sorts them.

    Raises:
        DataError: if the folder doesn't exist, has no class folders, or is ImageNet's flat ``val``.
    """
    if not os.path.isdir(root):
        raise DataError(_missing_folder(root))
    names, images, flat = [], 0, 0
    try:
        listing = os.scandir(root)
    except OSError as error:
        raise DataError(f"{printable(root)} can't be listed: {error.strerror or error}") from None
    with listing as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                names.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS):
                images += 1
                flat += bool(_ILSVRC_VAL.match(entry.name))
    if flat:
        raise DataError(
            f"{printable(root)} holds {_count(flat, 'image')} of ImageNet's validation set as the "
            f"archive unpacks them, not sorted into class folders. Sort them with\n"
            f"  python -m mindcv_ghost.data.imagenet sort-val --val_dir {printable(root)} "
            "--devkit ILSVRC2012_devkit_t12.tar.gz"
        )
    if images:
        raise DataError(
            f"{printable(root)} holds {_count(images, 'image')} outside any class folder. "
            f"Expected {printable(root)}/CLASS/IMAGE.jpg: one folder for each class."
        )
    if not names:
        raise DataError(
            f"{printable(root)} has no class folders. Expected {printable(root)}/CLASS/IMAGE.jpg."
        )
    return sorted(names, key=os.fsencode)


def count_folders(root: str) -> int:
    """Count the folders that :func:`class_folders` would list; 0 if they can't be listed."""
    try:
        with os.scandir(root) as entries:
            return sum(entry.is_dir() and not _is_hidden(entry.name) for entry in entries)
    except OSError:
        return 0


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def refuse_other_classes(
    train_root: str, train: Sequence[str], val_root: str, val: Sequence[str]
) -> None:
    """Raise a DataError that names the class folders that only one of two splits has."""
    of_train, of_val = set(train), set(val)
    missing = [name for name in train if name not in of_val]
    extra = [name for name in val if name not in of_train]
    if not missing and not extra:
        return
    parts = [
        f"  {len(names)} {where}: "
        + ", ".join(printable(name) for name in names[:_LISTED])
        + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        for names, where in ((missing, "missing in validation"), (extra, "only in validation"))
        if names
    ]
    fix = "Give both splits the same class folders."
    if missing:
        keep = os.path.join(val_root, missing[0], KEEP_FILES[0])
        fix += (
            " If a class has no validation images on purpose, make its folder with an empty file "
            f"in it: {printable(keep)}"
        )
    raise DataError(
        f"the class folders of {printable(val_root)} differ from those of "
        f"{printable(train_root)}:\n" + "\n".join(parts) + f"\n{fix}"
    )


def _missing_folder(root: str) -> str:
    """Explain why a folder doesn't exist: the first missing part of its path and its siblings."""
    missing = os.path.abspath(root)
    while not os.path.exists(os.path.dirname(missing)):
        missing = os.path.dirname(missing)
    parent, name = os.path.split(missing)
    if os.path.exists(missing):
        return f"{printable(missing)} is not a folder"
    try:
        there = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except OSError:
        there = []
    near = near_names(name, there)
    text = f"there is no folder {printable(missing)}"
    text += f" (did you mean {printable(near[0])}?)" if near else ""
    listed = ", ".join(printable(entry) + os.sep for entry in there[:_LISTED])
    return f"{text}\n{printable(parent)} has {listed or 'no folders'}" + (
        ", ..." if len(there) > _LISTED else ""
    )


def _count(number: int, what: str) -> str:
    """Count things; the noun before " ~ " takes the plural.

    >>> _count(2, "stray file ~ (no image)")
    '2 stray files (no image)'
    """
    noun, _, rest = what.partition(" ~ ")
    plural = noun if number == 1 else noun + "s"
    return f"{number:,} {plural}{' ' + rest if rest else ''}"


def _more(number: int) -> str:
    return f"\n  ... and {number - _LISTED:,} more" if number > _LISTED else ""
