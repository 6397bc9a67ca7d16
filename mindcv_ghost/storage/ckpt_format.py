"""Parse MindSpore's ``.ckpt`` files, and trust nothing in them.

``mindspore.load_checkpoint`` (2.8) trusts a file's own claims: 28 bytes that claim one tensor of
2**31 - 1 float32 cost 8 GiB and 22 s and give zeros. A tensor with half of its bytes is silently
padded with zeros, one with too many is silently cut. 20 MB of empty entries keep it busy for
minutes, a named pipe forever. This parser allocates nothing before the file has shown that it
holds the bytes.

The format is protobuf's, ``mindspore/train/checkpoint.proto``::

    message Checkpoint {
      message Value {
        required string tag = 1;                  // the parameter's name
        oneof value { TensorProto tensor = 2; MapTensorProto maptensor = 3; }
      }
      repeated Value value = 1;
    }
    message TensorProto {
      repeated int64 dims = 1;
      required string tensor_type = 2;            // "Float32"
      required bytes tensor_content = 3;          // little-endian, C order
    }

A parameter above 512 MB is stored as several consecutive values of the same name, each with the
shape of the whole. ``crc_check=True`` appends ``crc_num`` and ten bytes, the CRC-32 of everything
before them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mindcv_ghost.storage.protobuf import MalformedMessage, read_fields
from mindcv_ghost.storage.untrusted import (
    MAX_DIMENSIONS,
    MAX_ENTRIES,
    MAX_NAME_BYTES,
    UnreadableFile,
    array_of,
)

__all__ = ["parse_ckpt"]

_TYPES = {
    **{f"Int{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "Bool": np.dtype(np.bool_),
    "BFloat16": np.dtype("<u2"),
}
_CRC_MARK, _CRC_BYTES = b"crc_num", 17


@dataclass
class _Entry:
    """One parameter, or one slice of a large one.

    Args:
        name: of the parameter.
        kind: its type, such as ``Float32``; empty for a map parameter.
        dims: the shape of the whole parameter.
        parts: its content, slice by slice.
    """

    name: str
    kind: str = ""
    dims: tuple[int, ...] = ()
    parts: list[memoryview] = field(default_factory=list)


@dataclass
class _Budget:
    """How many more entries a file may have, those of its map parameters included."""

    left: int = MAX_ENTRIES

    def take(self) -> None:
        """Count an entry.

        Raises:
            UnreadableFile: if it is one too many.
        """
        if self.left == 0:
            raise UnreadableFile(f"it has more than {MAX_ENTRIES:,} entries")
        self.left -= 1


def parse_ckpt(data: bytes) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint; strings and map parameters in it are skipped.

    Accepts what ``mindspore.save_checkpoint`` writes, except encrypted files. It takes at most the
    memory of the largest parameter.

    Args:
        data: the whole file.

    Returns:
        Read-only arrays by name, in the file's types, which share memory with ``data``; bfloat16
        is converted to float32.

    Raises:
        UnreadableFile: if it is damaged, or holds more than the limits allow.
    """
    try:
        return _arrays(_without_crc(data))
    except MalformedMessage:
        raise UnreadableFile("it is damaged, incomplete or of another kind") from None


def _without_crc(data: bytes) -> memoryview:
    """Check the file's CRC, if it has one; return the bytes before it."""
    view = memoryview(data)
    if data[-_CRC_BYTES:].startswith(_CRC_MARK):
        view = view[:-_CRC_BYTES]
        stored = int.from_bytes(data[-_CRC_BYTES + len(_CRC_MARK) :], "big")
        if zlib.crc32(view) != stored:
            raise UnreadableFile("it is damaged: its checksum (crc_num) differs")
    return view


def _arrays(view: memoryview) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    names: set[str] = set()
    for entry in _joined(view):
        if entry.name in names:
            raise UnreadableFile(f"it has two parameters {entry.name!r}")
        names.add(entry.name)
        if entry.kind == "str":
            _check_text(entry)
        elif entry.kind:
            arrays[entry.name] = _array(entry)
    if not arrays:
        raise UnreadableFile("no tensor is in it")
    return arrays


def _joined(view: memoryview) -> Iterator[_Entry]:
    """Yield the file's parameters, with the slices of one joined."""
    current: _Entry | None = None
    budget = _Budget()
    for number, value in read_fields(view):
        if number != 1 or not isinstance(value, memoryview):
            raise UnreadableFile("it is damaged or of another kind: an entry is no parameter")
        budget.take()
        entry = _entry(value, budget)
        if current is None or entry.name != current.name:
            if current is not None:
                yield current
            current = entry
        elif (entry.kind, entry.dims) != (current.kind, current.dims):
            raise UnreadableFile(f"slices of {entry.name!r} differ in type or shape")
        else:
            current.parts += entry.parts
    if current is not None:
        yield current


def _entry(view: memoryview, budget: _Budget) -> _Entry:
    """Parse a ``Value``: a name with a tensor or a map."""
    name: str | None = None
    tensor: memoryview | None = None
    is_map = False
    for number, value in read_fields(view):
        if number == 1 and name is None and isinstance(value, memoryview):
            name = _text(value, "a name")
        elif number == 2 and tensor is None and isinstance(value, memoryview):
            tensor = value
        elif number == 3 and not is_map and isinstance(value, memoryview):
            is_map = True
            for _, part in read_fields(value):  # skipped, but a damaged map means a damaged file
                budget.take()
                _tensor(name or "", part if isinstance(part, memoryview) else memoryview(b""), True)
        else:
            raise UnreadableFile(
                f"it is damaged: field {number} of an entry is unknown or given twice"
            )
    if not name or is_map == (tensor is not None):
        raise UnreadableFile("it is damaged: an entry has no name, or not one value")
    return _Entry(name) if tensor is None else _tensor(name, tensor)


def _tensor(name: str, view: memoryview, in_map: bool = False) -> _Entry:
    """Parse a ``TensorProto``: a parameter, or one slice of a large one."""
    kind: str | None = None
    content: memoryview | None = None
    dims: list[int] = []
    for number, value in read_fields(view):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number == 2 and kind is None and isinstance(value, memoryview):
            kind = _text(value, f"the type of {name!r}")
        elif number == 3 and content is None and isinstance(value, memoryview):
            content = value
        else:
            raise UnreadableFile(
                f"it is damaged: field {number} of {name!r} is unknown or given twice"
            )
        if len(dims) > MAX_DIMENSIONS:
            raise UnreadableFile(f"{name!r} has more than {MAX_DIMENSIONS} dimensions")
    if kind is None or content is None:
        raise UnreadableFile(f"it is damaged: {name!r} has no type or no content")
    if kind != "str" and kind not in _TYPES and not in_map:  # a map's are "float32"
        raise UnreadableFile(
            f"{name!r} has the type {kind!r}; legal are {', '.join(_TYPES)} and str"
        )
    return _Entry(name, kind, tuple(dims), [content])


def _array(entry: _Entry) -> np.ndarray:
    held = sum(map(len, entry.parts))
    # A scalar has no dimension; in files of older releases it has a single one of size 0.
    dims = () if entry.dims == (0,) and held else entry.dims
    whole = entry.parts[0] if len(entry.parts) == 1 else b"".join(entry.parts)
    return array_of(entry.name, entry.kind, _TYPES[entry.kind], dims, whole)


def _check_text(entry: _Entry) -> None:
    """Check a string; strings are skipped, but a damaged one means a damaged file."""
    try:
        sound = len(entry.parts) == 1 and bytes(entry.parts[0]).decode("utf-32-le")
    except UnicodeDecodeError:
        sound = ""
    if not sound:
        raise UnreadableFile(f"it is damaged: {entry.name!r} is no text")


def _text(view: memoryview, what: str) -> str:
    if len(view) > MAX_NAME_BYTES:
        raise UnreadableFile(f"{what} has {len(view):,} bytes, more than {MAX_NAME_BYTES}")
    try:
        return bytes(view).decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableFile(f"it is damaged: {what} isn't UTF-8 text") from None
