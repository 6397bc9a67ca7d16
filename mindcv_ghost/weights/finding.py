"""Find a published network: by the name of one that comes with this package, a folder or a URL.

Each file that is used has been compared with its checksum. A folder lists its files in
``SHA256SUMS``; the checksum of that list is the user's to give for a URL, and is in this package
for what comes with it.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.compat import cache_folder
from mindcv_ghost.errors import CheckpointError, did_you_mean
from mindcv_ghost.storage.download import DownloadError, fetch, part_of
from mindcv_ghost.storage.file_lock import locked
from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.weights.card import Card
from mindcv_ghost.weights.checksums import LARGEST, SUMS, read_sums, verify

__all__ = ["CARD", "CONFIG", "WEIGHTS", "Published", "find_weights", "list_shipped"]

CARD, CONFIG, WEIGHTS = "card.json", "config.yaml", "model.safetensors"
_NEEDED = {CARD: 1 << 24, CONFIG: 1 << 20, WEIGHTS: 2 << 30}  # file -> largest size in bytes
_FRAGMENT = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Published:
    """A published network whose files are as they were published.

    Args:
        folder: with its files.
        card: what it is.
    """

    folder: Path
    card: Card

    @property
    def weights(self) -> Path:
        """File of the weights, under MindSpore's names."""
        return self.folder / WEIGHTS

    @property
    def config(self) -> Path:
        """File with all settings of the training."""
        return self.folder / CONFIG


def find_weights(text: str, model: str | None) -> Published:
    """Find the network that ``--pretrained`` or ``pretrained=`` means.

    Args:
        text: a name that :func:`list_shipped` has, a folder, or ``URL#sha256=DIGITS``, the URL of a
            folder and the SHA-256 of its ``SHA256SUMS``.
        model: the network that it should be; None for any.

    Raises:
        CheckpointError: if there is none, it can't be downloaded, a file differs from its checksum,
            or it is another network.
    """
    if "://" in text:
        published = _open(_download(text))
    elif _is_path(text):
        published = _open(_folder(text))
    else:
        published = _find_shipped(text, model)
    if model is not None and published.card.model != model:
        raise CheckpointError(
            f"pretrained {text!r} has weights of {published.card.model}, not of {model}. Give the "
            "one model or the other weights."
        )
    return published


def list_shipped() -> list[Published]:
    """Return the published networks that come with this package, by model and name.

    Raises:
        CheckpointError: if a file of this package has changed.
    """
    return [_open(folder) for folder in _shipped_folders()]


def _shipped_folders() -> list[Path]:
    root = Path(str(importlib.resources.files("mindcv_ghost.weights"))) / "shipped"
    sums = read_sums(root)
    verify(root, sums, sums)
    return [(root / name).parent for name in sorted(sums)]


def _find_shipped(name: str, model: str | None) -> Published:
    folders = _shipped_folders()
    found = [f for f in folders if f.name == name and model in (None, f.parent.name)]
    if len(found) == 1:
        return _open(found[0])
    if found:
        models = ", ".join(folder.parent.name for folder in found)
        raise CheckpointError(
            f"pretrained {name!r} is several networks: give the model, one of {models}"
        )
    if model is not None:
        folders = [folder for folder in folders if folder.parent.name == model]
    names = sorted({folder.name for folder in folders})
    there = f"there are {', '.join(names)}" if names else "there are none"
    of_model = f" of {model}" if model else ""
    raise CheckpointError(
        f"no weights{of_model} named {name!r} come with this package ({there})"
        f"{did_you_mean(name, names) or '.'} `mindcv-ghost weights` lists them. Or give a folder "
        "that `mindcv-ghost publish` wrote, or the URL of one."
    )


def _is_path(text: str) -> bool:
    if "/" in text or text in (".", "..") or text.startswith("~"):
        return True
    if os.path.isfile(os.path.join(text, SUMS)):
        return True
    # What else has the name of a network of this package, such as a folder of images, doesn't hide
    # it. The message about any other file says why it isn't taken.
    return os.path.exists(text) and not any(text == folder.name for folder in _shipped_folders())


def _folder(text: str) -> Path:
    # Path's methods of these names raise for an unknown user, a long name and a closed folder.
    folder = Path(os.path.expanduser(text))
    try:
        mode = folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"pretrained {text!r}: there is no such folder") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise CheckpointError(f"pretrained {text!r} can't be read: {reason}") from None
    if not stat.S_ISDIR(mode):
        raise CheckpointError(
            f"pretrained {text!r} is a file: give it as --ckpt_path (checkpoint_path=), or the "
            "folder that `mindcv-ghost publish` wrote"
        )
    return folder


def _open(folder: Path) -> Published:
    """Verify a folder's files and read its card."""
    verify(folder, read_sums(folder), _NEEDED)
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise CheckpointError(f"{path} isn't text in UTF-8: {problem}") from None
    return Published(folder, Card.from_json(text, str(path)))


def _download(text: str) -> Path:
    """Return the folder in the cache that has the files of a URL; what is missing is downloaded."""
    url, _, fragment = text.partition("#")
    digits = _FRAGMENT.fullmatch(fragment)
    if not url.startswith(("http://", "https://")):
        raise CheckpointError(f"pretrained {text!r}: a URL begins with https:// or http://")
    if "?" in url:
        raise CheckpointError(
            f"pretrained {text!r}: a URL is that of a folder, whose files are fetched by their "
            "names below it, and has no query (?...). Download the files, and give their folder"
        )
    if digits is None:
        raise CheckpointError(
            f"pretrained {text!r}: a URL is used only with its checksum, as {url}#sha256=DIGITS. "
            f"DIGITS is the SHA-256 of {SUMS} in that folder, which `mindcv-ghost publish` prints; "
            "take it from whom you trust, not from the server."
        )
    digest, base = digits[1].lower(), url.rstrip("/")
    folder = cache_folder() / "weights" / digest
    if _is_complete(folder, digest):  # the cache may be read-only
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock") as is_alone:  # ranks of a job start at once
            if is_alone and not _is_complete(folder, digest):
                _fetch_all(base, folder, digest)
            elif not is_alone:
                _fetch_apart(base, folder, digest)
    except OSError as problem:
        raise CheckpointError(
            f"{folder}, where downloaded weights are kept, can't be written "
            f"({problem.strerror or problem}). XDG_CACHE_HOME chooses another place."
        ) from None
    return folder


def _is_complete(folder: Path, digest: str) -> bool:
    sums = folder / SUMS
    try:
        if sha256_of(sums) != digest:
            return False
        verify(folder, read_sums(folder), _NEEDED)
    except (OSError, CheckpointError):  # something is missing or damaged: it is fetched again
        return False
    return True


def _fetch_apart(base: str, folder: Path, digest: str) -> None:
    """Download beside other processes that do the same, which would spoil a common file."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as own:
        _fetch_all(base, Path(own), digest, keeps=False)
        for name in (*_NEEDED, SUMS):
            os.replace(Path(own, name), folder / name)


def _fetch_all(base: str, folder: Path, digest: str, keeps: bool = True) -> None:
    name = SUMS
    try:
        fetch(f"{base}/{name}", folder / name, f"sha256:{digest}", LARGEST)
        sums = read_sums(folder)
        for name, largest in _NEEDED.items():
            if name not in sums:
                raise DownloadError(f"{SUMS} doesn't list it")
            fetch(f"{base}/{name}", folder / name, f"sha256:{sums[name]}", largest)
    except DownloadError as problem:
        kept = part_of(folder / name)
        kept_text = ""
        if keeps and kept.is_file() and kept.stat().st_size:
            kept_text = "What has arrived is kept, and the next start continues. "
        raise CheckpointError(
            f"{base}/{name} can't be downloaded: {problem}. {kept_text}Without a network, copy the "
            "folder here and give --pretrained FOLDER."
        ) from None
