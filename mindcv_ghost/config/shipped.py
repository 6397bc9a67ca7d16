"""The recipes that come with this package: found by their names, wherever it is installed."""

from __future__ import annotations

import os
from pathlib import Path

from mindcv_ghost.errors import near_names

__all__ = ["list_recipes", "recipe_path", "similar_recipes"]

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the recipes are inside the package; a checkout has them beside it.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def list_recipes() -> dict[str, Path]:
    """Return the recipes that come with this package: name -> file, sorted by name."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*/*.yaml"))}
    return {}


def recipe_path(text: str, folder: str = "") -> str:
    """Return the file that ``--config`` or ``_base_`` means.

    Args:
        text: a path; or, if there is no such file, the name of a recipe that comes with this
            package, with or without ``.yaml``.
        folder: that a relative path begins in; "" for the working directory.

    Returns:
        The recipe's path; the given one if there is no recipe of that name.
    """
    path = os.path.join(folder, text)
    if os.path.basename(text) != text or os.path.lexists(path):
        return path
    return str(list_recipes().get(_recipe_name(text), path))


def similar_recipes(path: str) -> list[str]:
    """Return the names of the recipes that a path, which leads nowhere, may mean.

    A path to another folder means only the recipe of exactly that name.
    """
    recipes, name = list_recipes(), _recipe_name(path)
    if name in recipes:
        return [name]
    return [] if os.path.dirname(path) else near_names(name, recipes, count=3)


def _recipe_name(path: str) -> str:
    name = os.path.basename(path)
    return name[: -len(".yaml")] if name.endswith(".yaml") else name
