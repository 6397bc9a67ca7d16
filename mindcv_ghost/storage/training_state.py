"""One file with everything that a resumed run needs, and a checksum that proves it is intact.

The format is safetensors: a JSON header, then the arrays by name, no code, nothing to unpickle. The
header's metadata hold what isn't an array (``facts``, as JSON) and the SHA-256 of the whole file,
computed with zeros in the digest's own place. A cut or a single flipped bit anywhere is detected.

A file is checked in this order: its size against a limit, its digest (read in chunks), its header,
the names, shapes and types in it against those that the caller expects. Arrays are created only
after that, so a malicious file costs no more memory than a good one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import write_bytes
from mindcv_ghost.storage.name_mismatch import compare

__all__ = [
    "SCHEMA",
    "STATE_FORMAT",
    "DamagedFileError",
    "StateFile",
    "UnreadableStateError",
    "open_state",
    "write_state",
]

SCHEMA = 1
"""Version of the layout of ``facts`` and of the arrays' names."""

STATE_FORMAT = "mindcv_ghost training state"
"""``format`` in the metadata of such a file."""

_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = b"0" * 64
_CHUNK_BYTES = 1 << 22
_LARGEST_HEADER = 1 << 24
# 64 GiB: the state of a network of a billion parameters takes a quarter of it.
_LARGEST_FILE = 1 << 36


class DamagedFileError(CheckpointError):
    """The file isn't what was written: cut, altered, or something else altogether."""


class UnreadableStateError(CheckpointError):
    """The system can't read a state file: a disk's error, or a network file system's."""


def write_state(path: Path, arrays: Mapping[str, np.ndarray], facts: dict) -> None:
    """Write a state atomically.

    Args:
        path: the file; its folder must exist.
        arrays: by name; of NumPy's own data types.
        facts: values that JSON can hold; numbers come back bit for bit.

    Raises:
        OSError: if the disk rejects it; an existing file is then unchanged.
    """
    from safetensors.numpy import save

    metadata = {
        "format": STATE_FORMAT,
        "schema": str(SCHEMA),
        "sha256": _NO_DIGEST.decode(),
        "facts": json.dumps(facts, allow_nan=False),
    }
    data = bytearray(save({k: np.asarray(v, order="C") for k, v in arrays.items()}, metadata))
    place = _DIGEST.search(data, 0, 8 + int.from_bytes(data[:8], "little"))
    assert place is not None  # it is in the metadata
    data[slice(*place.span(1))] = hashlib.sha256(data).hexdigest().encode()
    write_bytes(path, data)


def open_state(path: Path) -> StateFile:
    """Check a state file and read its facts; the arrays stay on the disk for now.

    Raises:
        DamagedFileError: if it isn't a file that :func:`write_state` wrote.
        UnreadableStateError: if the system can't read it.
        CheckpointError: if a later version of this package wrote it.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file.")
        with open(path, "rb") as file:
            header = _checked_header(path, file, size)
    except OSError as error:
        raise UnreadableStateError(f"{path} can't be read ({error.strerror}).") from error
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != STATE_FORMAT:
        raise DamagedFileError(f"{path} isn't a training state of mindcv_ghost.")
    if metadata.get("schema") != str(SCHEMA):
        raise CheckpointError(
            f"{path} has layout {metadata.get('schema')!r}; this version of mindcv_ghost knows "
            f"{SCHEMA}. Continue with the version that wrote it."
        )
    try:
        facts = json.loads(metadata["facts"])
    except (KeyError, ValueError, RecursionError, TypeError):
        facts = None
    if not isinstance(facts, dict):
        raise DamagedFileError(f"{path} has no readable metadata.")
    return StateFile(path, facts)


class StateFile:
    """A state file whose checksum is right.

    Args:
        path: where it is.
        facts: what :func:`write_state` was given.
    """

    def __init__(self, path: Path, facts: dict) -> None:
        self.path = path
        self.facts = facts

    def read(
        self, expected: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    ) -> dict[str, np.ndarray]:
        """Read all arrays.

        Args:
            expected: shape and data type by name.

        Raises:
            CheckpointError: if the file has other arrays; lists ten of each kind.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
                shapes = {name: tuple(shape) for name, (shape, _) in expected.items()}
                mismatch = compare(found, shapes)
                if mismatch:
                    raise CheckpointError(
                        f"{self.path} holds the state of another network or optimizer:\n{mismatch}"
                    )
                arrays = {name: file.get_tensor(name) for name in expected}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{self.path} can't be read: {error}") from error
        for name, (_, dtype) in expected.items():
            if arrays[name].dtype != dtype:
                raise CheckpointError(
                    f"{self.path}: {name} is {arrays[name].dtype}, the run needs {dtype}."
                )
        return arrays


def _checked_header(path: Path, file: BinaryIO, size: int) -> dict:
    """Read the header, and the rest of the file to compare its checksum."""
    if size > _LARGEST_FILE:
        raise DamagedFileError(f"{path} has {size:,} bytes; no state has more than 64 GiB.")
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(_LARGEST_HEADER, size - 8):
        raise DamagedFileError(f"{path} ({size:,} bytes) is damaged: its header is cut.")
    head = start + file.read(length)
    place = _DIGEST.search(head)
    if place is None:
        raise DamagedFileError(f"{path} is damaged, or no training state: it has no checksum.")
    digest = hashlib.sha256(head[: place.start(1)] + _NO_DIGEST + head[place.end(1) :])
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    if digest.hexdigest().encode() != place.group(1):
        raise DamagedFileError(f"{path} ({size:,} bytes) is damaged: its checksum differs.")
    try:
        header = json.loads(head[8:])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise DamagedFileError(f"{path} has a header that can't be read.")
    return header
