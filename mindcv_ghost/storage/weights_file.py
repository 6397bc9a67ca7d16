"""Read a file of weights, whoever wrote it, or say why it can't be read.

The kind follows from the first bytes, not from the suffix: MindSpore's ``.ckpt`` and
``.safetensors`` of any origin are read here. A set of ``.safetensors`` with an index in JSON is
read as one file: MindSpore's ``unified_safetensors`` writes ``param_name_map.json``, Hugging Face's
libraries ``*.safetensors.index.json``.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.ckpt_format import parse_ckpt
from mindcv_ghost.storage.safetensors_format import looks_like_safetensors, parse_safetensors
from mindcv_ghost.storage.untrusted import UnreadableFile

__all__ = ["WeightsFile", "conversion_command", "is_pickled", "read_weights_file"]

_MAX_LISTED = 10
_LARGEST_INDEX = 1 << 24  # bytes
_INDEX_NAMES = ("param_name_map.json", "*.safetensors.index.json")
_PYTORCH = (
    (b"PK\x03\x04", "a ZIP archive, as PyTorch writes them"),
    (b"\x80\x02", "a Python pickle, as PyTorch wrote them"),
)
_OTHER_FORMATS = (
    (b"\x89HDF", "it is an HDF5 file; convert it to MindSpore's format first"),
    # MindSpore's encrypted blocks begin with one of two magic numbers (AES-GCM, AES-CBC).
    (b"\xd8\x5e\x3a\x7f", "it is encrypted; save it without enc_key"),
    (b"\xd9\x5e\x3a\x7f", "it is encrypted; save it without enc_key"),
)


@dataclass(frozen=True)
class WeightsFile:
    """What is in a file.

    Args:
        path: of the file, or of the folder of a set of files.
        arrays: read-only, by the names in the file.
        metadata: texts that a ``.safetensors`` file carries; empty for ``.ckpt``.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_weights_file(
    path: str | os.PathLike, largest_bytes: int, model: str = "NAME"
) -> WeightsFile:
    """Read all arrays of a file, or of a set of files.

    It takes at most the memory of the files and of their largest array.

    Args:
        path: a ``.ckpt`` or ``.safetensors`` file, with any suffix; or the index of a set of
            ``.safetensors`` files, or the folder with one index.
        largest_bytes: more than that is refused unread.
        model: the network's registered name, for the command that a message suggests.

    Raises:
        CheckpointError: if there is no such file, it can't be read, is damaged, too large, or of
            another kind; for PyTorch's files the message has the command that converts them.
    """
    path = Path(path)
    index = _index(path)
    if index is not None:
        return _read_set(path, index, largest_bytes)
    data = b""
    try:
        data = _read_bytes(path, largest_bytes)
        return WeightsFile(path, *_parse(path, data, model))
    except FileNotFoundError:
        raise CheckpointError(_no_such_file(path)) from None
    except UnreadableFile as problem:
        reason = str(problem)
    except OSError as error:
        reason = error.strerror or str(error)
    except MemoryError:
        reason = "this machine's memory is too small for it"
    size = f" ({len(data)} bytes)" if data or reason == "it is empty" else ""
    raise CheckpointError(f"{path}{size} can't be read as a checkpoint: {reason}")


def is_pickled(path: Path) -> bool:
    """Whether a file begins as PyTorch's do, whatever its suffix (Lightning's is ``.ckpt``)."""
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError:  # who reads it as a checkpoint says why that can't be done
        return False
    return any(start.startswith(mark) for mark, _ in _PYTORCH)


def conversion_command(path: Path, model: str) -> str:
    """Return the command that makes a MindSpore checkpoint of a PyTorch file.

    >>> conversion_command(Path("a b.pth"), "ghost_resnet50")
    "python -m mindcv_ghost.convert 'a b.pth' 'a b.ckpt' --model ghost_resnet50"
    """
    stem = path.name.partition(".")[0] if path.name.endswith(".pth.tar") else path.stem
    out = path.with_name(f"{stem}_mindspore.ckpt" if path.suffix == ".ckpt" else f"{stem}.ckpt")
    files = f"{shlex.quote(str(path))} {shlex.quote(str(out))}"
    return f"python -m mindcv_ghost.convert {files} --model {model}"


def _parse(path: Path, data: bytes, model: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not data:
        raise UnreadableFile("it is empty")
    for start, kind in _PYTORCH:
        if data.startswith(start):
            raise UnreadableFile(
                f"it is {kind}. Convert it: {conversion_command(path, model)} (Ghost networks; for "
                "others use MindCV's conversion scripts)"
            )
    for start, reason in _OTHER_FORMATS:
        if data.startswith(start):
            raise UnreadableFile(reason)
    if looks_like_safetensors(data) or path.suffix == ".safetensors":
        return parse_safetensors(data)
    return parse_ckpt(data), {}


def _read_bytes(path: Path, largest_bytes: int) -> bytes:
    # Opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile("it isn't a regular file")
        if status.st_size > largest_bytes:
            raise UnreadableFile(
                f"it has {status.st_size:,} bytes and is larger than {largest_bytes:,} bytes, the "
                "most for this use"
            )
        return file.read(status.st_size)


def _no_such_file(path: Path) -> str:
    near = sorted(p.name for kind in ("*.ckpt", "*.safetensors") for p in path.parent.glob(kind))[
        :_MAX_LISTED
    ]
    there = f"; that folder has {', '.join(near)}" if near else ""
    return f"no checkpoint {path}{there}. Check the path."


def _index(path: Path) -> Path | None:
    """Return the index of a set of files; None for a single file."""
    # Path's is_dir raises for a long name and in a closed folder; reading the file says what it is.
    if not os.path.isdir(path):
        return path if path.suffix == ".json" and os.path.isfile(path) else None
    found = [index for pattern in _INDEX_NAMES for index in sorted(path.glob(pattern))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(index.name for index in found[:_MAX_LISTED])
        raise CheckpointError(f"{path} has several indexes ({names}). Name one of them.")
    if any(path.glob("rank_*")):
        raise CheckpointError(
            f"{path} has a folder for each rank, as a distributed training of MindSpore writes it: "
            "each holds parts of the weights. Join them with mindspore.unified_safetensors(SOURCE, "
            "STRATEGY_FILE, TARGET), and give TARGET."
        )
    raise CheckpointError(
        f"{path} is a folder; give a .ckpt or .safetensors file in it. (A folder is taken if it "
        f"has an index of its files: {' or '.join(_INDEX_NAMES)}.)"
    )


def _read_set(path: Path, index: Path, largest_bytes: int) -> WeightsFile:
    """Read the files that an index names; they must be beside it and hold what it says."""
    files: dict[str, list[str]] = {}
    for name, file in _weight_map(index).items():
        files.setdefault(file, []).append(name)
    arrays: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for file, names in files.items():
        part = read_weights_file(index.with_name(file), largest_bytes)
        largest_bytes -= sum(array.nbytes for array in part.arrays.values())
        missing = [name for name in names if name not in part.arrays]
        if missing:
            raise CheckpointError(
                f"{part.path} doesn't hold {missing[0]} ({len(missing)} missing), though "
                f"{index.name} says so: the files aren't of one set."
            )
        arrays.update({name: part.arrays[name] for name in names})
        metadata.update(part.metadata)
    return WeightsFile(path, arrays, metadata)


def _weight_map(index: Path) -> dict[str, str]:
    """Read which file of a set holds which array."""
    try:
        content = json.loads(_read_bytes(index, _LARGEST_INDEX))
    except (UnreadableFile, OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{index} can't be read as JSON: {problem}") from None
    # Earlier releases of MindSpore write the map alone.
    names = content.get("weight_map", content) if isinstance(content, dict) else None
    if not names or not isinstance(names, dict) or not all(map(_is_part, names.values())):
        raise CheckpointError(
            f"{index} isn't an index of weights: it must have an object weight_map whose values "
            "are .safetensors files in the same folder."
        )
    return names


def _is_part(file: object) -> bool:
    # A file of another folder isn't part of this set, whatever the index says.
    return isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file
