"""The table of docs/keys.md: every key of a recipe, from the package's own table."""

from __future__ import annotations

from collections.abc import Iterable

from mindcv_ghost.config.command_line import default_text
from mindcv_ghost.config.keys import (
    ADDITIONS,
    DEVIATIONS,
    KEYS,
    SCRIPT_SECTIONS,
    SECTIONS,
    Key,
    keys_of,
)
from tools.pages.markdown import table

__all__ = ["keys_table"]


def keys_table() -> str:
    """Make a Markdown table for each section of the keys."""
    parts = [_section(section, KEYS.values()) for section in SECTIONS]
    for script, sections in SCRIPT_SECTIONS.items():
        note = f"Options of `{script}.py` alone, which recipes can't set.\n\n"
        parts += [_section(section, keys_of(script).values(), note) for section in sections]
    return "\n".join(parts)


def _section(section: str, keys: Iterable[Key], note: str = "") -> str:
    rows = [_row(key) for key in keys if key.section == section]
    return f"## {section}\n\n{note}" + table(("key", "meaning", "legal values", "default"), rows)


def _row(key: Key) -> tuple[str, ...]:
    meaning = key.help
    if key.name in ADDITIONS:
        meaning += " (not in MindCV)"
    if key.name in DEVIATIONS:
        meaning += f" (MindCV's default differs: {DEVIATIONS[key.name]})"
    return f"`{key.name}`", meaning, key.type.legal, f"`{default_text(key)}`"
