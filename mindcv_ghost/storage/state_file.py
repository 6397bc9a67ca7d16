"""One file with everything a stopped run needs to go on, and proof that it is whole.

The format is safetensors: arrays by name behind a JSON header, no code, nothing to unpickle. The
header's metadata hold what isn't an array (``facts``, JSON) and the SHA-256 of the whole file with
the digest's own place zeroed, so that a cut or a single flipped bit anywhere is noticed.

A file is believed in this order: its size against a limit, its digest (read in pieces), its header,
the names, shapes and types in it against those that the caller has; only then are arrays made. So a
file that was made to do harm costs no more memory than a good one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import write_bytes

__all__ = ["SCHEMA", "DamagedFile", "StateFile", "open_state", "write_state"]

SCHEMA = 1
"""Version of the layout of ``facts`` and of the arrays' names."""

_FORMAT = "mindcv_ghost training state"
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = b"0" * 64
_PIECE_BYTES = 1 << 22
_LARGEST_HEADER = 1 << 24
# 64 GiB: the state of a network of a billion parameters takes a quarter of it.
_LARGEST_FILE = 1 << 36
_LISTED = 10


class DamagedFile(CheckpointError):
    """The file isn't what was written: cut, altered, or something else altogether."""


def write_state(path: Path, arrays: Mapping[str, np.ndarray], facts: dict) -> None:
    """Write a state: temporary file, flush, rename, flush of the folder.

    Args:
        path: the file; its folder must exist.
        arrays: by name; data types of NumPy's own.
        facts: what JSON can hold; numbers come back bit for bit.

    Raises:
        OSError: if the disk doesn't take it; an older file of that name is then untouched.
    """
    from safetensors.numpy import save

    metadata = {
        "format": _FORMAT,
        "schema": str(SCHEMA),
        "sha256": _NO_DIGEST.decode(),
        "facts": json.dumps(facts, allow_nan=False),
    }
    data = bytearray(save({k: np.asarray(v, order="C") for k, v in arrays.items()}, metadata))
    place = _DIGEST.search(data, 0, 8 + int.from_bytes(data[:8], "little"))
    data[slice(*place.span(1))] = hashlib.sha256(data).hexdigest().encode()
    write_bytes(path, data)


def open_state(path: Path) -> StateFile:
    """Check a state file and read its facts; the arrays stay on the disk for now.

    Raises:
        DamagedFile: if it is anything else than what :func:`write_state` wrote.
        CheckpointError: if it can't be read, or a later version of this package wrote it.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file.")
        with open(path, "rb") as file:
            header = _checked_header(path, file, size)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error.strerror}).") from error
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != _FORMAT:
        raise DamagedFile(f"{path} is no training state of mindcv_ghost.")
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
        raise DamagedFile(f"{path} holds no facts about its run.")
    return StateFile(path, facts)


class StateFile:
    """A checked file.

    Args:
        path: where it is.
        facts: what :func:`write_state` was given.
    """

    def __init__(self, path: Path, facts: dict) -> None:
        self.path = path
        self.facts = facts

    def read(self, wanted: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
        """Read the arrays, which must be exactly those that are wanted.

        Args:
            wanted: shape and data type by name.

        Raises:
            CheckpointError: if others are there; lists ten of each kind.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
                self._compare(found, {name: shape for name, (shape, _) in wanted.items()})
                arrays = {name: file.get_tensor(name) for name in wanted}
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{self.path} can't be read: {error}") from error
        other = [n for n, (_, dtype) in wanted.items() if arrays[n].dtype != dtype]
        if other:
            raise CheckpointError(f"{self.path}: {other[0]} is {arrays[other[0]].dtype}.")
        return arrays

    def _compare(self, found: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> None:
        shapes = [
            f"{name}: file {found[name]}, run {wanted[name]}"
            for name in wanted
            if name in found and found[name] != tuple(wanted[name])
        ]
        lines = []
        for title, names in (
            ("missing in the file", [n for n in wanted if n not in found]),
            ("unexpected in the file", [n for n in found if n not in wanted]),
            ("of another shape", shapes),
        ):
            if names:
                more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
                lines.append(f"  {title}: {', '.join(names[:_LISTED])}{more}")
        if lines:
            raise CheckpointError(
                f"{self.path} holds the state of another network or optimizer:\n" + "\n".join(lines)
            )


def _checked_header(path: Path, file, size: int) -> dict:
    if size > _LARGEST_FILE:
        raise DamagedFile(f"{path} has {size:,} bytes; none of ours has more than 64 GiB.")
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(_LARGEST_HEADER, size - 8):
        raise DamagedFile(f"{path} ({size:,} bytes) is cut or altered: its header isn't whole.")
    head = start + file.read(length)
    place = _DIGEST.search(head)
    if place is None:
        raise DamagedFile(f"{path} is altered, or no training state: it has no checksum.")
    digest = hashlib.sha256(head[: place.start(1)] + _NO_DIGEST + head[place.end(1) :])
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    if digest.hexdigest().encode() != place.group(1):
        raise DamagedFile(f"{path} ({size:,} bytes) is cut or altered: its checksum is another.")
    try:
        header = json.loads(head[8:])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise DamagedFile(f"{path} has a header that can't be read.")
    return header
