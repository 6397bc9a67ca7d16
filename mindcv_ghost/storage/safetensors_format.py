"""Parse ``.safetensors`` files, MindSpore's and others', and trust nothing in them.

The format is eight bytes with the length of a header, the header in JSON, and the arrays' bytes
one after another, without gaps::

    {"__metadata__": {"format": "ms"}, "conv1.weight": {"dtype": "F32", "shape": [64, 3, 7, 7],
     "data_offsets": [0, 37632]}, ...}

MindSpore writes ``format: ms``, PyTorch's library ``format: pt``. With ``crc_check=True`` MindSpore
adds ``crc_num``, the CRC-32 of names and arrays in the order of the names
(``train/serialization.py`` of 2.8, ``_exec_save``). The package ``safetensors`` isn't used, because
its NumPy reader refuses bfloat16.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from mindcv_ghost.storage.untrusted import (
    MAX_ENTRIES,
    MAX_NAME_BYTES,
    UnreadableFile,
    array_of,
)

__all__ = ["looks_like_safetensors", "parse_safetensors"]

_LENGTH_BYTES = 8
_LARGEST_HEADER = 1 << 24  # bytes; 1,627 arrays need 200 kB
_LARGEST_NUMBER = 20  # digits: older Pythons take hours for a number of a million
_TYPES = {
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BOOL": np.dtype(np.bool_),
    "BF16": np.dtype("<u2"),
}


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file begins like safetensors: a length below 2**40, then a JSON object."""
    return start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and start[5:8] == bytes(3)


def parse_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays and the metadata of a file.

    Args:
        data: the whole file.

    Returns:
        Read-only arrays by name, which share memory with ``data`` (bfloat16 becomes float32), and
        the texts under ``__metadata__``.

    Raises:
        UnreadableFile: if it is damaged, or holds more than the limits allow.
    """
    header, content = _split(data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UnreadableFile("it is damaged: its metadata aren't texts")
    if not header:
        raise UnreadableFile("no tensor is in it")
    if len(header) > MAX_ENTRIES:
        raise UnreadableFile(f"it has more than {MAX_ENTRIES:,} entries")
    places = {name: _place(name, entry) for name, entry in header.items()}
    _check_no_gaps(places, len(content))
    _check_crc(places, content, metadata)
    arrays = {
        name: array_of(name, kind, _TYPES[kind], dims, content[begin:end])
        for name, (kind, dims, begin, end) in places.items()
    }
    return arrays, metadata


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Split a file into its header, parsed, and the arrays' bytes."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or length > len(data) - _LENGTH_BYTES:
        raise UnreadableFile("it is damaged, incomplete or of another kind: its header is cut")
    if length > _LARGEST_HEADER:
        raise UnreadableFile(f"its header has {length:,} bytes, more than {_LARGEST_HEADER:,}")
    end = _LENGTH_BYTES + length
    try:
        header = json.loads(
            data[_LENGTH_BYTES:end],
            object_pairs_hook=_without_repeats,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UnreadableFile("it is damaged: its header is no JSON object")
    return header, memoryview(data)[end:]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise UnreadableFile("it is damaged: its header has a name twice")
    return names


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _LARGEST_NUMBER else _no_number(digits)


def _no_number(text: str) -> NoReturn:
    raise UnreadableFile(f"it is damaged: its header has the number {text[:_LARGEST_NUMBER]}")


def _place(name: str, entry: Any) -> tuple[str, list[int], int, int]:
    """Return type, shape, first byte and end of an array."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half of a pair, which JSON can write
        raise UnreadableFile(f"it is damaged: the name {name!r} isn't UTF-8 text") from None
    if not 0 < length <= MAX_NAME_BYTES:
        raise UnreadableFile(f"it has a name of {length:,} bytes; legal are 1 to {MAX_NAME_BYTES}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnreadableFile(f"it is damaged: {name!r} isn't described by type, shape and offsets")
    kind, dims, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise UnreadableFile(f"{name!r} has the type {kind!r}; legal are {', '.join(_TYPES)}")
    if not _are_counts(dims) or not _are_counts(offsets) or len(offsets) != 2:
        raise UnreadableFile(f"it is damaged: {name!r} has no legal shape or offsets")
    return kind, dims, offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    # A bool is an int to Python.
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_no_gaps(places: Mapping[str, tuple[str, list[int], int, int]], size: int) -> None:
    """Check that the arrays' bytes follow each other and fill the file."""
    position = 0
    for begin, end in sorted((begin, end) for _, _, begin, end in places.values()):
        if begin != position or end < begin:
            raise UnreadableFile("it is damaged: its arrays overlap or have gaps between them")
        position = end
    if position != size:
        raise UnreadableFile(f"it is damaged: its arrays need {position:,} bytes, it has {size:,}")


def _check_crc(
    places: Mapping[str, tuple[str, list[int], int, int]],
    content: memoryview,
    metadata: Mapping[str, str],
) -> None:
    """Check MindSpore's checksum, if the file has one."""
    # Of an integer without dimensions MindSpore takes as many zeros as its value says (bytes(n)).
    if "crc_num" not in metadata or any(
        kind[0] in "IU" and not dims for kind, dims, _, _ in places.values()
    ):
        return
    crc = 0
    for name in sorted(places):
        _, _, begin, end = places[name]
        crc = zlib.crc32(content[begin:end], zlib.crc32(name.encode(), crc))
    if metadata["crc_num"] != str(crc):
        raise UnreadableFile("it is damaged: its checksum (crc_num) differs")
