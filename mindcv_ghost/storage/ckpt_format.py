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

import math
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.protobuf import MalformedMessage, read_fields

__all__ = ["MAX_DIMENSIONS", "MAX_ENTRIES", "MAX_NAME_BYTES", "read_ckpt"]

MAX_ENTRIES = 100_000  # ResNet-152 has 777 parameters and statistics, HRNet-W48 1,627
MAX_DIMENSIONS = 8  # MindSpore's own operators take no more
MAX_NAME_BYTES = 1000

_TYPES = {
    **{f"Int{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "Bool": np.dtype(np.bool_),
    "BFloat16": np.dtype("<u2"),  # NumPy has no such type; converted to float32 without loss
}
_CRC_MARK, _CRC_BYTES = b"crc_num", 17
_OTHER_FORMATS = (
    (b"PK\x03\x04", "it is a ZIP archive: a PyTorch file? Convert it to MindSpore's format first"),
    (b"\x80\x02", "it is a Python pickle: a PyTorch file? Convert it to MindSpore's format first"),
    (b"\x89HDF", "it is an HDF5 file; convert it to MindSpore's format first"),
    # MindSpore's encrypted blocks begin with one of two magic numbers (AES-GCM, AES-CBC).
    (b"\xd8\x5e\x3a\x7f", "it is encrypted; save it without enc_key"),
    (b"\xd9\x5e\x3a\x7f", "it is encrypted; save it without enc_key"),
)


class _Damaged(Exception):
    """These bytes are no valid checkpoint; the message says why."""


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


def read_ckpt(path: str | os.PathLike, largest_bytes: int) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint; strings and map parameters in it are skipped.

    Accepts what ``mindspore.save_checkpoint`` writes, except encrypted files, with any suffix. It
    takes at most the memory of the file and its largest parameter.

    Args:
        path: the file.
        largest_bytes: larger files are refused unread.

    Returns:
        Read-only arrays by name, in the file's types; bfloat16 is converted to float32.

    Raises:
        CheckpointError: if it can't be read, is damaged, or is larger than ``largest_bytes``.
    """
    size = 0
    try:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise _Damaged("it isn't a regular file")
            if size > largest_bytes:
                raise _Damaged(f"it is larger than {largest_bytes:,} bytes, the most for this use")
            data = file.read(size)
        return _arrays(_checked(data))
    except _Damaged as problem:
        reason = str(problem)
    except MalformedMessage:
        reason = "it is damaged, incomplete or of another kind"
    except OSError as error:
        reason = error.strerror or str(error)
    except MemoryError:
        reason = "this machine's memory is too small for it"
    raise CheckpointError(
        f"{path} ({size} bytes) can't be read as a MindSpore checkpoint: {reason}"
    )


def _checked(data: bytes) -> memoryview:
    """Check the file's kind and its CRC, if it has one; return the bytes without the CRC."""
    if not data:
        raise _Damaged("it is empty")
    for start, reason in _OTHER_FORMATS:
        if data.startswith(start):
            raise _Damaged(reason)
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") < len(data):
        raise _Damaged(
            "it is a safetensors file; convert it with mindspore.safetensors_to_ckpt(path)"
        )
    view = memoryview(data)
    if data[-_CRC_BYTES:].startswith(_CRC_MARK):
        view = view[:-_CRC_BYTES]
        stored = int.from_bytes(data[-_CRC_BYTES + len(_CRC_MARK) :], "big")
        if zlib.crc32(view) != stored:
            raise _Damaged("it is damaged: its checksum (crc_num) differs")
    return view


def _arrays(view: memoryview) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    names: set[str] = set()
    for entry in _joined(view):
        if entry.name in names:
            raise _Damaged(f"it has two parameters {entry.name!r}")
        names.add(entry.name)
        if entry.kind == "str":
            _check_text(entry)
        elif entry.kind:
            arrays[entry.name] = _array(entry)
    if not arrays:
        raise _Damaged("no tensor is in it")
    return arrays


def _joined(view: memoryview) -> Iterator[_Entry]:
    """Yield the file's parameters, with the slices of one joined."""
    current: _Entry | None = None
    for count, (number, value) in enumerate(read_fields(view)):
        if number != 1 or not isinstance(value, memoryview):
            raise _Damaged("it is damaged or of another kind: an entry is no parameter")
        if count >= MAX_ENTRIES:
            raise _Damaged(f"it has more than {MAX_ENTRIES:,} entries")
        entry = _entry(value)
        if current is None or entry.name != current.name:
            if current is not None:
                yield current
            current = entry
        elif (entry.kind, entry.dims) != (current.kind, current.dims):
            raise _Damaged(f"slices of {entry.name!r} differ in type or shape")
        else:
            current.parts += entry.parts
    if current is not None:
        yield current


def _entry(view: memoryview) -> _Entry:
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
                _tensor(name or "", part if isinstance(part, memoryview) else memoryview(b""), True)
        else:
            raise _Damaged(f"it is damaged: field {number} of an entry is unknown or given twice")
    if not name or is_map == (tensor is not None):
        raise _Damaged("it is damaged: an entry has no name, or not one value")
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
            raise _Damaged(f"it is damaged: field {number} of {name!r} is unknown or given twice")
        if len(dims) > MAX_DIMENSIONS:
            raise _Damaged(f"{name!r} has more than {MAX_DIMENSIONS} dimensions")
    if kind is None or content is None:
        raise _Damaged(f"it is damaged: {name!r} has no type or no content")
    if kind != "str" and kind not in _TYPES and not in_map:  # a map's are "float32"
        raise _Damaged(f"{name!r} has the type {kind!r}; legal are {', '.join(_TYPES)} and str")
    return _Entry(name, kind, tuple(dims), [content])


def _array(entry: _Entry) -> np.ndarray:
    """Build the array, if there are exactly as many bytes as the shape says."""
    dtype, held = _TYPES[entry.kind], sum(map(len, entry.parts))
    # A scalar has no dimension; in files of older releases it has a single one of size 0.
    dims = () if entry.dims == (0,) and held else entry.dims
    if any(not 0 <= dim < 2**31 for dim in dims):
        raise _Damaged(f"{entry.name!r} has the shape {list(dims)}")
    needed = math.prod(dims) * dtype.itemsize
    if held != needed:
        raise _Damaged(
            f"it is damaged: {entry.name!r} of {entry.kind} {list(dims)} needs {needed:,} bytes "
            f"and has {held:,}"
        )
    if not held:
        raise _Damaged(f"{entry.name!r} of shape {list(dims)} holds nothing")
    whole = entry.parts[0] if len(entry.parts) == 1 else b"".join(entry.parts)
    array = np.frombuffer(whole, dtype)
    if entry.kind == "Bool" and np.frombuffer(whole, np.uint8).max() > 1:
        raise _Damaged(f"it is damaged: {entry.name!r} of Bool holds other bytes than 0 and 1")
    if entry.kind == "BFloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    array = array.reshape(dims)
    array.flags.writeable = False
    return array


def _check_text(entry: _Entry) -> None:
    """Check a string; strings are skipped, but a damaged one means a damaged file."""
    try:
        sound = len(entry.parts) == 1 and bytes(entry.parts[0]).decode("utf-32-le")
    except UnicodeDecodeError:
        sound = ""
    if not sound:
        raise _Damaged(f"it is damaged: {entry.name!r} is no text")


def _text(view: memoryview, what: str) -> str:
    if len(view) > MAX_NAME_BYTES:
        raise _Damaged(f"{what} has {len(view):,} bytes, more than {MAX_NAME_BYTES}")
    try:
        return bytes(view).decode("utf-8")
    except UnicodeDecodeError:
        raise _Damaged(f"it is damaged: {what} isn't UTF-8 text") from None
