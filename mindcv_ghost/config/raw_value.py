"""A value as the user wrote it, before it has a type, and how messages quote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Union

__all__ = ["CONTROL_CHARACTERS", "IllegalValue", "RawValue", "quoted", "split_list"]

_NULLS = ("none", "null", "~", "")
# Python decodes command-line bytes that aren't UTF-8 to lone surrogates.
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class RawValue:
    """A value as the user wrote it, before it has a type.

    Attributes:
        value: text, a list of :class:`RawValue`, or a dict from names to :class:`RawValue`.
        where: ``recipe.yaml:12`` or ``--option``.
        plain: False for text in quotes, which is never null.
        number: True if YAML reads it as an integer (``0`` isn't a boolean there).
    """

    value: Union[str, list[RawValue], dict[str, RawValue]]
    where: str
    plain: bool = True
    number: bool = False

    @property
    def is_null(self) -> bool:
        """Whether the user wrote one of the words for "nothing", or nothing at all."""
        return isinstance(self.value, str) and self.plain and self.value.lower() in _NULLS


class IllegalValue(ValueError):
    """A value that isn't legal; the text says what is legal."""


def quoted(value: object) -> str:
    """Format a value for a message as YAML would; long ones are shortened.

    Args:
        value: a :class:`RawValue`, or a value that has been parsed.

    >>> quoted((0.75, 1.333)), quoted(None), quoted(True), quoted("top_k"), quoted("")
    ('[0.75, 1.333]', 'null', 'true', 'top_k', "''")
    """
    text = _yaml_like(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _yaml_like(value: object) -> str:
    if isinstance(value, RawValue):
        return _yaml_like(value.value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml_like, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml_like(item)}" for name, item in value.items()) + "}"
    if isinstance(value, str):
        plain = value.isprintable() and value == value.strip() and value
        return value if plain else repr(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def split_list(raw: RawValue) -> list[RawValue]:
    """Return a list's items: of a YAML list, or of text such as ``[0.08, 1.0]`` or ``0.08 1.0``.

    Args:
        raw: a list or text. A dict has no items.
    """
    if isinstance(raw.value, dict):
        return []
    if isinstance(raw.value, list):
        if len(raw.value) == 1 and isinstance(raw.value[0].value, str):
            return split_list(raw.value[0])
        return raw.value
    text = raw.value.strip()
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        text = text[1:-1].strip().rstrip(",")
    words = [word for part in text.split(",") for word in (part.split() or [""])] if text else []
    return [RawValue(word, raw.where) for word in words]
