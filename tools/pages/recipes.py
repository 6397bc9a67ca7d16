"""What a recipe says about itself in its head comment, for the model page and the tests."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from mindcv_ghost.report import ReportError

__all__ = ["Recipe", "list_recipes", "read_recipe"]

_FIELDS = ("Command", "Hours", "Accuracy")


@dataclass(frozen=True)
class Recipe:
    """A recipe file as the model page shows it.

    Args:
        path: the YAML file.
        title: the first line of its head comment.
        command: how it is meant to be run, on one line.
        hours: of the whole training, with the source of the number.
        accuracy: likewise.
        values: its keys, those of its ``_base_`` included.
    """

    path: Path
    title: str
    command: str
    hours: str
    accuracy: str
    values: dict

    @property
    def model(self) -> str:
        return self.values["model"]

    @property
    def dataset(self) -> str:
        return self.values["dataset"]


def list_recipes(folder: str | os.PathLike) -> list[Recipe]:
    """Read all recipes of a folder, by name."""
    return [read_recipe(path) for path in sorted(Path(folder).glob("*.yaml"))]


def read_recipe(path: str | os.PathLike) -> Recipe:
    """Read one recipe.

    Raises:
        ReportError: if its head comment lacks one of ``Command:``, ``Hours:``, ``Accuracy:``.
    """
    path = Path(path)
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line[1:].rstrip())
    # A command goes on behind a backslash, as in a shell.
    text = re.sub(r"\s*\\\n\s*", " ", "\n".join(head))
    found = dict(re.findall(r"^\s*(\w+):\s+(.+)$", text, re.MULTILINE))
    missing = [name for name in _FIELDS if name not in found]
    if not head or missing:
        raise ReportError(
            f"{path}: the head comment must say {', '.join(name + ':' for name in _FIELDS)}; "
            f"missing: {', '.join(missing) or 'all'}"
        )
    fields = {name.lower(): found[name].strip() for name in _FIELDS}
    return Recipe(path, head[0].strip().rstrip("."), values=_values(path), **fields)


def _values(path: Path) -> dict:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = values.pop("_base_", None)
    return {**_values(path.parent / base), **values} if base else values
