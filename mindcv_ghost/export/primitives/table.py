"""The table itself, and the decorator that adds a row."""

from __future__ import annotations

from typing import Callable

from mindcv_ghost.export.translation import Rule

__all__ = ["TABLE", "translates"]

TABLE: dict[str, Rule] = {}
"""The rule for each primitive."""


def translates(*primitives: str) -> Callable[[Rule], Rule]:
    """Decorate the rule for some primitives."""

    def add(rule: Rule) -> Rule:
        TABLE.update(dict.fromkeys(primitives, rule))
        return rule

    return add
