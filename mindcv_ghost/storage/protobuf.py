"""Walks over the fields of a protobuf message without building objects from it.

The protobuf library's message objects can take 30 times the bytes that they are parsed from.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["MalformedMessage", "read_fields"]

# Wire types, https://protobuf.dev/programming-guides/encoding/
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


class MalformedMessage(ValueError):
    """These bytes are no protobuf message, or only a part of one."""


def read_fields(
    view: memoryview, fixed_size: bool = False
) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message.

    Args:
        view: the message's bytes.
        fixed_size: whether the message may have fixed-size fields (fixed32, float, double, ...).

    Yields:
        The field's number, and its value: a signed 64-bit integer of a varint, the bytes of any
        other field.

    Raises:
        MalformedMessage: at the first field that is cut or of an illegal type.
    """
    position, end = 0, len(view)
    while position < end:
        key, position = _varint(view, position)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, position = _varint(view, position)
            yield key >> 3, value - (value >> 63 << 64)  # int64: two's complement
            continue
        if wire_type == _BYTES:
            length, position = _varint(view, position)
        elif fixed_size and wire_type in _FIXED_SIZES:
            length = _FIXED_SIZES[wire_type]
        else:
            raise MalformedMessage
        if length > end - position:
            raise MalformedMessage
        yield key >> 3, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """Read an unsigned integer of at most 64 bits: seven a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            break
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, position
    raise MalformedMessage
