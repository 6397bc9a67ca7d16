"""Types of configuration values: each parses what the user wrote and knows what is legal.

YAML and the command line are parsed by the same types, so both refuse the same values. A type gets
a :class:`~mindcv_ghost.config.raw_value.RawValue` and returns a Python value, or raises
:class:`~mindcv_ghost.config.raw_value.IllegalValue` with a description of what is legal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mindcv_ghost.config.raw_value import (
    CONTROL_CHARACTERS,
    IllegalValue,
    RawValue,
    quoted,
    split_list,
)
from mindcv_ghost.errors import did_you_mean

__all__ = [
    "Bool",
    "Either",
    "Float",
    "Int",
    "KeywordArguments",
    "Nullable",
    "NameList",
    "NumberList",
    "OneOrList",
    "Text",
    "TextList",
    "TypedKeywordArguments",
    "ValueType",
]

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)
_MAX_TEXT = 4096  # characters; Linux accepts no longer path
_MAX_INT32 = 2**31 - 1  # MindSpore's steps, sizes and counts are int32
_MAX_INT64 = 2**63 - 1


class ValueType:
    """The type of a key's value.

    Attributes:
        legal: describes the legal values, for messages and ``--help``.
        takes_list: whether the command line may give several words.
        is_flag: whether the option may stand without a value.
    """

    legal = ""
    takes_list = False
    is_flag = False

    def parse(self, raw: RawValue) -> Any:
        """Return the value that ``raw`` stands for.

        Raises:
            IllegalValue: if it isn't legal.
        """
        raise NotImplementedError

    def text_of(self, raw: RawValue) -> str:
        """Return the text, stripped.

        Raises:
            IllegalValue: if it is a list or a mapping.
        """
        if not isinstance(raw.value, str):
            raise IllegalValue(self.legal)
        return raw.value.strip()


class Bool(ValueType):
    """true or false."""

    legal = "true or false"
    is_flag = True

    def parse(self, raw: RawValue) -> bool:
        """Return the boolean. 1 and 0 are booleans too, except as YAML integers."""
        word = self.text_of(raw).lower()
        if word in _TRUE or (word == "1" and not raw.number):
            return True
        if word in _FALSE or (word == "0" and not raw.number):
            return False
        raise IllegalValue(self.legal)


class Int(ValueType):
    """A whole number from ``lo`` to ``hi``, or one of ``choices``."""

    def __init__(self, lo: int = 0, hi: int = _MAX_INT32, choices: tuple[int, ...] = ()) -> None:
        self.lo, self.hi, self.choices = lo, hi, choices
        if choices:
            self.legal = " or ".join(map(str, choices))
        elif hi < _MAX_INT32:
            self.legal = f"a whole number from {lo} to {hi}"
        else:
            self.legal = f"a whole number, at least {lo}"

    def parse(self, raw: RawValue) -> int:
        """Return the number; only decimal digits are taken."""
        word = self.text_of(raw)
        # 2**31 has 10 digits. int() of thousands of digits is slow, and then refused.
        if not _INT.fullmatch(word) or len(word) > 20:
            raise IllegalValue(self.legal)
        value = int(word)
        if not self.lo <= value <= self.hi or (self.choices and value not in self.choices):
            raise IllegalValue(self.legal)
        return value


class Float(ValueType):
    """A finite number between ``lo`` and ``hi``; ``above`` and ``below`` exclude the bound."""

    def __init__(
        self,
        lo: float | None = None,
        hi: float | None = None,
        above: float | None = None,
        below: float | None = None,
    ) -> None:
        self.lo, self.hi, self.above, self.below = lo, hi, above, below
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", lo),
                ("above", above),
                ("at most", hi),
                ("below", below),
            )
            if bound is not None
        ]
        self.legal = "a number" + (f" {' and '.join(bounds)}" if bounds else "")

    def parse(self, raw: RawValue) -> float:
        """Return the number. ``1e-5`` is one, though it is text for PyYAML."""
        word = self.text_of(raw)
        if _NOT_FINITE.fullmatch(word):
            raise IllegalValue(f"{self.legal}, and finite")
        if not _NUMBER.fullmatch(word):
            raise IllegalValue(self.legal)
        value = float(word)
        if not math.isfinite(value):
            raise IllegalValue(f"{self.legal}, and finite")
        if (
            (self.lo is not None and value < self.lo)
            or (self.hi is not None and value > self.hi)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        ):
            raise IllegalValue(self.legal)
        return value


class Text(ValueType):
    """A line of text, or one of ``choices`` in upper or lower case.

    Args:
        choices: legal words; ``parse`` returns them as spelt here.
        legal: description of the legal texts, if there are no ``choices``.
        empty: whether empty text is legal.
        check: called with the text; raises :class:`IllegalValue` if it isn't legal.
    """

    def __init__(
        self,
        choices: tuple[str, ...] = (),
        legal: str = "text",
        empty: bool = False,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.choices, self.empty, self.check = choices, empty, check
        self.legal = "one of " + ", ".join(c or "''" for c in choices) if choices else legal

    def parse(self, raw: RawValue) -> str:
        """Return the text, stripped."""
        word = self.text_of(raw)
        if raw.is_null and word and not self.choices:
            write_empty = " (write '' for none)" if self.empty else ""
            raise IllegalValue(f"{self.legal}, not null{write_empty}")
        if not word and not self.empty and "" not in self.choices:
            raise IllegalValue(f"{self.legal}, not empty")
        if self.choices:
            spelling = {choice.lower(): choice for choice in self.choices}
            if word.lower() not in spelling:
                raise IllegalValue(self.legal + did_you_mean(word, self.choices))
            return spelling[word.lower()]
        if CONTROL_CHARACTERS.search(word):
            raise IllegalValue(f"{self.legal} without control characters, in UTF-8")
        if len(word) > _MAX_TEXT:
            raise IllegalValue(f"{self.legal} of at most {_MAX_TEXT:,} characters")
        if self.check is not None:
            self.check(word)
        return word


class NumberList(ValueType):
    """A list of numbers: ``[0.08, 1.0]`` in YAML; the command line also takes ``0.08 1.0``.

    Args:
        item: type of the items.
        lengths: legal lengths; empty: any length from 1.
        order: "", "pair" (the first is at most the second) or "increasing".
    """

    takes_list = True

    def __init__(self, item: ValueType, lengths: tuple[int, ...] = (), order: str = "") -> None:
        self.item, self.lengths, self.order = item, lengths, order
        numbers = item.legal.replace("a whole number", "whole numbers").replace(
            "a number", "numbers"
        )
        how_many = " or ".join(map(str, lengths)) if lengths else "a list of"
        self.legal = f"{how_many} {numbers}"
        if order == "pair":
            self.legal += ", the smaller first"
        elif order:
            self.legal += ", each larger than the one before"

    def parse(self, raw: RawValue) -> tuple:
        """Return the numbers."""
        values = tuple(self._parse_item(item) for item in split_list(raw))
        if not values or (self.lengths and len(values) not in self.lengths):
            raise IllegalValue(self.legal)
        if self.order == "pair" and values[0] > values[1]:
            raise IllegalValue(self.legal)
        if self.order == "increasing" and any(a >= b for a, b in zip(values, values[1:])):
            raise IllegalValue(self.legal)
        return values

    def _parse_item(self, raw: RawValue) -> Any:
        try:
            return self.item.parse(raw)
        except IllegalValue as illegal:
            suffix = ", and finite" if str(illegal).endswith("finite") else ""
            raise IllegalValue(self.legal + suffix) from None


class OneOrList(ValueType):
    """One value or a list: a side, or height and width, for example."""

    takes_list = True

    def __init__(self, one: ValueType, several: NumberList, legal: str) -> None:
        self.one, self.several, self.legal = one, several, legal

    def parse(self, raw: RawValue) -> Any:
        """Return one value for a list of one item."""
        try:
            items = [raw] if isinstance(raw.value, dict) else split_list(raw)
            if len(items) == 1:
                return self.one.parse(items[0])
            return self.several.parse(raw)
        except IllegalValue:
            raise IllegalValue(self.legal) from None


class Either(ValueType):
    """A value of the first type or, if it isn't one, of the second."""

    def __init__(self, first: ValueType, second: ValueType) -> None:
        self.first, self.second = first, second
        self.legal = f"{first.legal}; or {second.legal}"
        self.is_flag = first.is_flag

    def parse(self, raw: RawValue) -> Any:
        """Return what the first type that accepts it returns."""
        try:
            return self.first.parse(raw)
        except IllegalValue:
            try:
                return self.second.parse(raw)
            except IllegalValue:
                raise IllegalValue(self.legal) from None


class Nullable(ValueType):
    """A value of another type, or null.

    Args:
        inner: the other type.
        word: a word for null that this key accepts besides ``null`` and ``none``.
    """

    def __init__(self, inner: ValueType, word: str = "null") -> None:
        self.inner, self.word = inner, word
        self.legal = f"{inner.legal}; or {word}"
        self.takes_list, self.is_flag = inner.takes_list, inner.is_flag

    def parse(self, raw: RawValue) -> Any:
        """Return None for null, and the other type's value otherwise."""
        only = raw
        if isinstance(raw.value, list) and len(raw.value) == 1:
            only = raw.value[0]
        if only.is_null or (isinstance(only.value, str) and only.value.lower() == self.word):
            return None
        try:
            return self.inner.parse(raw)
        except IllegalValue as illegal:
            raise IllegalValue(f"{illegal}; or {self.word}") from None


class TextList(ValueType):
    """A list of texts, or one text."""

    takes_list = True
    legal = "text, or a list of texts"

    def parse(self, raw: RawValue) -> list[str]:
        """Return the texts, also for one."""
        words = [Text().parse(item) for item in split_list(raw)]
        if not words:
            raise IllegalValue(self.legal)
        return words


class NameList(ValueType):
    """A list of names out of a given set; null or ``[]`` for none.

    Args:
        names: the legal ones.
        refused: names that exist but aren't legal -> why.
        legal: describes the legal names.
    """

    takes_list = True

    def __init__(self, names: Collection[str], refused: Mapping[str, str], legal: str) -> None:
        self.names, self.refused, self.legal = names, refused, legal

    def parse(self, raw: RawValue) -> tuple[str, ...]:
        """Return the names, each once."""
        items = [] if raw.is_null else split_list(raw)
        if not items and isinstance(raw.value, dict):
            raise IllegalValue(self.legal)
        return tuple(dict.fromkeys(self._parse_name(item) for item in items))

    def _parse_name(self, raw: RawValue) -> str:
        name = self.text_of(raw)
        if name in self.refused:
            raise IllegalValue(f"{self.legal}; {name} isn't one: {self.refused[name]}")
        if name not in self.names:
            near = did_you_mean(name, self.names)
            raise IllegalValue(f"{self.legal}; {quoted(name)} isn't one{near}")
        return name


class KeywordArguments(ValueType):
    """Keyword arguments of a call: ``{ratio: 4}`` in YAML, ``ratio=4`` on the command line.

    A value gets the type that it looks like: null, bool, int, float, text, or a list of these.

    Args:
        reserved: names that may not be given here -> the option to use instead.
    """

    takes_list = True
    legal = (
        "names with values, as {ratio: 4} in YAML or ratio=4 on the command line, or null for none"
    )

    def __init__(self, reserved: Mapping[str, str]) -> None:
        self.reserved = reserved

    def parse(self, raw: RawValue) -> dict[str, Any]:
        """Return the arguments by name."""
        return {name: self._parse_argument(name, item) for name, item in self._items(raw).items()}

    def _parse_argument(self, name: str, raw: RawValue) -> Any:
        if name in self.reserved:
            raise IllegalValue(
                f"{self.legal}; {name} is an option of its own: {self.reserved[name]}"
            )
        if not name.isidentifier():
            raise IllegalValue(f"{self.legal}; {quoted(name)} isn't a name")
        return _infer(raw)

    @staticmethod
    def is_none(raw: RawValue) -> bool:
        """Whether the user wrote null: no arguments, also none of a recipe's."""
        words = raw.value if isinstance(raw.value, list) else [raw]
        return len(words) == 1 and words[0].is_null

    def _items(self, raw: RawValue) -> dict[str, RawValue]:
        """Return what was written for each name."""
        if self.is_none(raw) or raw.value == "{}":
            return {}
        if isinstance(raw.value, dict):
            return raw.value
        items = {}
        for word in raw.value if isinstance(raw.value, list) else [raw]:
            if not isinstance(word.value, str) or "=" not in word.value:
                if isinstance(word.value, str) and word.value.strip() in ("{}", ""):
                    continue
                raise IllegalValue(self.legal)
            name, _, text = word.value.partition("=")
            items[name.strip()] = _text_or_list(text.strip(), raw.where)
        return items


class TypedKeywordArguments(KeywordArguments):
    """Keyword arguments of a call whose names and types are known.

    Args:
        types: the names -> their types.
    """

    def __init__(self, types: Mapping[str, ValueType]) -> None:
        super().__init__({})
        self.types = types
        self.legal = f"names with values, as {{ratio: 2}}; the names are {', '.join(types)}"

    def _parse_argument(self, name: str, raw: RawValue) -> Any:
        if name not in self.types:
            near = did_you_mean(name, self.types)
            raise IllegalValue(f"{self.legal}; {quoted(name)} isn't one{near}")
        try:
            return self.types[name].parse(raw)
        except IllegalValue as illegal:
            raise IllegalValue(f"{self.legal}; {name} takes {illegal}") from None


def _text_or_list(text: str, where: str) -> RawValue:
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        return RawValue(split_list(RawValue(text, where)), where)
    return RawValue(text, where)


def _infer(raw: RawValue) -> Any:
    """Return a value of the type that it looks like."""
    if isinstance(raw.value, dict):
        raise IllegalValue("values that are numbers, true, false, null, text or lists of these")
    if isinstance(raw.value, list):
        return [_infer(item) for item in raw.value]
    text = raw.value.strip()
    if CONTROL_CHARACTERS.search(text):
        raise IllegalValue("text without control characters, in UTF-8")
    if len(text) > _MAX_TEXT:
        raise IllegalValue(f"text of at most {_MAX_TEXT:,} characters")
    if not raw.plain:
        return text
    if raw.is_null:
        return None
    if text.lower() in _TRUE + _FALSE:
        return Bool().parse(raw)
    for number in (Int(-_MAX_INT64), Float()):
        try:
            return number.parse(raw)
        except IllegalValue:
            continue
    if _NOT_FINITE.fullmatch(text) or _NUMBER.fullmatch(text):
        raise IllegalValue("finite numbers, true, false, null, text or lists of these")
    return text
