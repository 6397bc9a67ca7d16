"""What a user wrote, before it has a type, and how to quote it."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CONTROL_CHARACTERS", "Given", "Wrong", "did_you_mean", "items_of", "shown"]

_NULLS = ("none", "null", "~", "")
# Lone surrogates are what Python makes of command-line bytes that aren't UTF-8.
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Given:
    """What a user wrote for a key, before it has a type.

    Attributes:
        value: text, a list of :class:`Given`, or a dict from names to :class:`Given`.
        where: ``recipe.yaml:12`` or ``--option``.
        plain: False for quoted text, which is never null.
        number: True where YAML itself reads an integer (``0`` isn't a boolean there).
    """

    value: str | list[Given] | dict[str, Given]
    where: str
    plain: bool = True
    number: bool = False

    @property
    def null(self) -> bool:
        """Whether this is the way to write "nothing"."""
        return isinstance(self.value, str) and self.plain and self.value.lower() in _NULLS


class Wrong(ValueError):
    """A value that isn't legal; the text says what is."""


def shown(value: object) -> str:
    """Quote what a user wrote, or a value, as YAML has it; cut to leave room for the message.

    >>> shown((0.75, 1.333)), shown(None), shown(True), shown("top_k"), shown("")
    ('[0.75, 1.333]', 'null', 'true', 'top_k', "''")
    """
    text = _yaml_like(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _yaml_like(value: object) -> str:
    if isinstance(value, Given):
        return _yaml_like(value.value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml_like, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml_like(item)}" for name, item in value.items()) + "}"
    if isinstance(value, str):
        plain = value.isprintable() and value == value.strip() and value
        return value if plain else repr(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def did_you_mean(word: str, names: tuple[str, ...]) -> str:
    """End a message with the nearest name, or with nothing."""
    import difflib

    near = difflib.get_close_matches(word.lower(), [n for n in names if n], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def items_of(given: Given) -> list[Given]:
    """Split ``[0.08, 1.0]``, ``0.08,1.0`` or ``0.08 1.0`` if it came as text."""
    if isinstance(given.value, dict):
        return []
    if isinstance(given.value, list):
        if len(given.value) == 1 and isinstance(given.value[0].value, str):
            return items_of(given.value[0])
        return given.value
    text = given.value.strip()
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        text = text[1:-1].strip().rstrip(",")
    words = [word for part in text.split(",") for word in (part.split() or [""])] if text else []
    return [Given(word, given.where) for word in words]
