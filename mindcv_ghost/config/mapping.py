"""Free arguments for a network: names with values of any plain type."""

from __future__ import annotations

from typing import Any

from mindcv_ghost.config.given import (
    CONTROL_CHARACTERS,
    Given,
    Wrong,
    did_you_mean,
    items_of,
    shown,
)
from mindcv_ghost.config.kinds import (
    MAX_TEXT,
    NOT_FINITE,
    NUMBER,
    Bool,
    Float,
    Int,
    Kind,
    Text,
)

__all__ = ["Mapping", "Options", "Texts"]

_BOOLEANS = ("true", "yes", "on", "false", "no", "off")
_LARGEST = 2**63 - 1


class Mapping(Kind):
    """Names and values for a call: ``{ratio: 4}`` in YAML, ``ratio=4`` on the command line.

    Args:
        reserved: names that may not be given here, with the option to use instead.
    """

    many = True
    legal = "names with values, as {ratio: 4} in YAML or ratio=4 on the command line"

    def __init__(self, reserved: dict[str, str]) -> None:
        self.reserved = reserved

    def read(self, given: Given) -> dict[str, Any]:
        if given.null or given.value == "{}":
            return {}
        pairs = given.value if isinstance(given.value, dict) else self._pairs(given)
        for name in pairs:
            if name in self.reserved:
                raise Wrong(f"{self.legal}; {name} is an option of its own: {self.reserved[name]}")
            if not name.isidentifier():
                raise Wrong(f"{self.legal}; {shown(name)} isn't a name")
        return {name: _guess(item) for name, item in pairs.items()}

    def _pairs(self, given: Given) -> dict[str, Given]:
        words = given.value if isinstance(given.value, list) else [given]
        pairs = {}
        for word in words:
            if not isinstance(word.value, str) or "=" not in word.value:
                if isinstance(word.value, str) and word.value.strip() in ("{}", ""):
                    continue
                raise Wrong(self.legal)
            name, _, text = word.value.partition("=")
            pairs[name.strip()] = _parsed(text, given.where)
        return pairs


class Options(Mapping):
    """A mapping of which every name is known: ``{ratio: 4}``, with a kind for each.

    Args:
        kinds: what each name takes.
    """

    def __init__(self, kinds: dict[str, Kind]) -> None:
        super().__init__({})
        self.kinds = kinds
        self.legal = f"names with values, as {{ratio: 2}}; the names are {', '.join(kinds)}"

    def read(self, given: Given) -> dict[str, Any]:
        if given.null or given.value == "{}":
            return {}
        pairs = given.value if isinstance(given.value, dict) else self._pairs(given)
        values = {}
        for name, item in pairs.items():
            if name not in self.kinds:
                near = did_you_mean(name, tuple(self.kinds))
                raise Wrong(f"{self.legal}; {shown(name)} isn't one{near}")
            try:
                values[name] = self.kinds[name].read(item)
            except Wrong as wrong:
                raise Wrong(f"{self.legal}; {name} takes {wrong}") from None
        return values


class Texts(Kind):
    """A list of texts, or one."""

    many = True
    legal = "text, or a list of texts"

    def read(self, given: Given) -> list[str]:
        words = [Text().read(item) for item in items_of(given)]
        if not words:
            raise Wrong(self.legal)
        return words


def _parsed(text: str, where: str) -> Given:
    text = text.strip()
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        return Given(items_of(Given(text, where)), where)
    return Given(text, where)


def _guess(given: Given) -> Any:
    """Give a value of unknown kind the type it looks like: null, bool, int, float, text, list."""
    if isinstance(given.value, dict):
        raise Wrong("values that are numbers, true, false, null, text or lists of these")
    if isinstance(given.value, list):
        return [_guess(item) for item in given.value]
    text = given.value.strip()
    if CONTROL_CHARACTERS.search(text):
        raise Wrong("text without control characters, in UTF-8")
    if len(text) > MAX_TEXT:
        raise Wrong(f"text of at most {MAX_TEXT:,} characters")
    if not given.plain:
        return text
    if given.null:
        return None
    if text.lower() in _BOOLEANS:
        return Bool().read(given)
    for kind in (Int(-_LARGEST), Float()):
        try:
            return kind.read(given)
        except Wrong:
            continue
    if NOT_FINITE.fullmatch(text) or NUMBER.fullmatch(text):
        raise Wrong("finite numbers, true, false, null, text or lists of these")
    return text
