"""The table of docs/keys.md: every key of a recipe, from the package's own table."""

from __future__ import annotations

from mindcv_ghost.config.command_line import default_text
from mindcv_ghost.config.keys import ADDITIONS, DEVIATIONS, KEYS, SECTIONS, Key

__all__ = ["keys_table"]


def keys_table() -> str:
    """Make a Markdown table for each section of the keys."""
    parts = []
    for section in SECTIONS:
        rows = [_row(key) for key in KEYS.values() if key.section == section]
        head = "| key | meaning | legal values | default |\n| --- | --- | --- | --- |\n"
        parts.append(f"## {section}\n\n{head}" + "".join(rows))
    return "\n".join(parts)


def _row(key: Key) -> str:
    meaning = key.help
    if key.name in ADDITIONS:
        meaning += " (not in MindCV)"
    if key.name in DEVIATIONS:
        meaning += f" (MindCV's default differs: {DEVIATIONS[key.name]})"
    cells = (f"`{key.name}`", meaning, key.type.legal, f"`{default_text(key)}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
