"""Kinds of configuration values: how each is read from text, and what is legal.

YAML and the command line are read by the same kinds, so that both refuse the same things. A kind
receives what the user wrote and returns a Python value, or raises
:class:`~mindcv_ghost.config.given.Wrong` with what it expected instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from mindcv_ghost.config.given import CONTROL_CHARACTERS, Given, Wrong, did_you_mean, items_of

__all__ = [
    "MAX_TEXT",
    "NOT_FINITE",
    "NUMBER",
    "Bool",
    "Either",
    "Float",
    "Int",
    "Kind",
    "Nullable",
    "Numbers",
    "OneOrMore",
    "Text",
]

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)
MAX_TEXT = 4096  # characters, as Linux takes in a path: a longer name or path can't be meant
_LARGEST = 2**31 - 1  # MindSpore's steps, sizes and counts are int32


class Kind:
    """How one key is read.

    Attributes:
        legal: what may be given, for messages and ``--help``.
        many: whether the command line takes several words for it.
        flag: whether the option may stand alone.
    """

    legal = ""
    many = False
    flag = False

    def read(self, given: Given) -> Any:
        """Turn what was written into a value, or raise :class:`Wrong`."""
        raise NotImplementedError

    def text(self, given: Given) -> str:
        """Return one word or line, or raise :class:`Wrong` for a list, a mapping or nothing."""
        if not isinstance(given.value, str):
            raise Wrong(self.legal)
        return given.value.strip()


class Bool(Kind):
    """true or false."""

    legal = "true or false"
    flag = True

    def read(self, given: Given) -> bool:
        word = self.text(given).lower()
        if word in _TRUE or (word == "1" and not given.number):
            return True
        if word in _FALSE or (word == "0" and not given.number):
            return False
        raise Wrong(self.legal)


class Int(Kind):
    """A whole number from ``lo`` to ``hi``, or one of ``choices``."""

    def __init__(self, lo: int = 0, hi: int = _LARGEST, choices: tuple[int, ...] = ()) -> None:
        self.lo, self.hi, self.choices = lo, hi, choices
        if choices:
            self.legal = " or ".join(map(str, choices))
        elif hi < _LARGEST:
            self.legal = f"a whole number from {lo} to {hi}"
        else:
            self.legal = f"a whole number, at least {lo}"

    def read(self, given: Given) -> int:
        word = self.text(given)
        # 2**31 has 10 digits; int() of thousands of them is slow and then refused.
        if not _INT.fullmatch(word) or len(word) > 20:
            raise Wrong(self.legal)
        value = int(word)
        if not self.lo <= value <= self.hi or (self.choices and value not in self.choices):
            raise Wrong(self.legal)
        return value


class Float(Kind):
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

    def read(self, given: Given) -> float:
        word = self.text(given)
        if NOT_FINITE.fullmatch(word):
            raise Wrong(f"{self.legal}, and finite")
        if not NUMBER.fullmatch(word):
            raise Wrong(self.legal)
        value = float(word)
        if not math.isfinite(value):
            raise Wrong(f"{self.legal}, and finite")
        if (
            (self.lo is not None and value < self.lo)
            or (self.hi is not None and value > self.hi)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        ):
            raise Wrong(self.legal)
        return value


class Text(Kind):
    """A line of text, or one of ``choices`` in any case of letters.

    Args:
        choices: legal words; what is returned is spelt as here.
        legal: how to name them.
        empty: whether nothing is legal.
        check: raises :class:`Wrong` for text that isn't legal.
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

    def read(self, given: Given) -> str:
        word = self.text(given)
        if given.null and word and "" not in self.choices and not self.choices:
            raise Wrong(f"{self.legal}, not null" + (" (write '' for none)" if self.empty else ""))
        if not word and not self.empty and "" not in self.choices:
            raise Wrong(f"{self.legal}, not empty")
        if self.choices:
            spelt = {choice.lower(): choice for choice in self.choices}
            if word.lower() not in spelt:
                raise Wrong(self.legal + did_you_mean(word, self.choices))
            return spelt[word.lower()]
        if CONTROL_CHARACTERS.search(word):
            raise Wrong(f"{self.legal} without control characters, in UTF-8")
        if len(word) > MAX_TEXT:
            raise Wrong(f"{self.legal} of at most {MAX_TEXT:,} characters")
        if self.check is not None:
            self.check(word)
        return word


class Numbers(Kind):
    """A list of numbers: ``[0.08, 1.0]`` in YAML; the command line also takes ``0.08 1.0``.

    Args:
        each: kind of the items.
        counts: how many there may be; empty: one or more.
        order: "", "pair" (the first at most the second) or "increasing".
    """

    many = True

    def __init__(self, each: Kind, counts: tuple[int, ...] = (), order: str = "") -> None:
        self.each, self.counts, self.order = each, counts, order
        numbers = each.legal.replace("a whole number", "whole numbers").replace(
            "a number", "numbers"
        )
        how_many = " or ".join(map(str, counts)) if counts else "a list of"
        self.legal = f"{how_many} {numbers}"
        if order == "pair":
            self.legal += ", the smaller first"
        elif order:
            self.legal += ", each larger than the one before"

    def read(self, given: Given) -> tuple:
        values = tuple(self._item(item) for item in items_of(given))
        if not values or (self.counts and len(values) not in self.counts):
            raise Wrong(self.legal)
        if self.order == "pair" and values[0] > values[1]:
            raise Wrong(self.legal)
        if self.order == "increasing" and any(a >= b for a, b in zip(values, values[1:])):
            raise Wrong(self.legal)
        return values

    def _item(self, item: Given) -> Any:
        try:
            return self.each.read(item)
        except Wrong as wrong:
            suffix = ", and finite" if str(wrong).endswith("finite") else ""
            raise Wrong(self.legal + suffix) from None


class OneOrMore(Kind):
    """One value, or a list of several: a side or height and width, say."""

    many = True

    def __init__(self, one: Kind, several: Numbers, legal: str = "") -> None:
        self.one, self.several = one, several
        self.legal = legal or f"{one.legal}; or {several.legal}"

    def read(self, given: Given) -> Any:
        try:
            items = [given] if isinstance(given.value, dict) else items_of(given)
            if len(items) == 1:
                return self.one.read(items[0])
            return self.several.read(given)
        except Wrong:
            raise Wrong(self.legal) from None


class Either(Kind):
    """One kind or the other."""

    def __init__(self, first: Kind, second: Kind) -> None:
        self.first, self.second = first, second
        self.legal = f"{first.legal}; or {second.legal}"

    def read(self, given: Given) -> Any:
        try:
            return self.first.read(given)
        except Wrong:
            try:
                return self.second.read(given)
            except Wrong:
                raise Wrong(self.legal) from None


class Nullable(Kind):
    """Another kind, or nothing (``null`` or ``none``).

    Args:
        kind: what it is otherwise.
        word: further ways to write nothing.
    """

    def __init__(self, kind: Kind, word: str = "null") -> None:
        self.kind, self.word = kind, word
        self.legal = f"{kind.legal}; or {word}"
        self.many, self.flag = kind.many, kind.flag

    def read(self, given: Given) -> Any:
        only = given
        if isinstance(given.value, list) and len(given.value) == 1:
            only = given.value[0]
        if only.null or (isinstance(only.value, str) and only.value.lower() == self.word):
            return None
        try:
            return self.kind.read(given)
        except Wrong as wrong:
            raise Wrong(f"{wrong}; or {self.word}") from None
