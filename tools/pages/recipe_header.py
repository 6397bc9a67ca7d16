"""Read a recipe's header comment: its command, hours and accuracy, for the model page."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from mindcv_ghost.report import ReportError

__all__ = ["PROOF_PAGE", "DescribedRecipe", "describe_recipe", "list_recipes"]

PROOF_PAGE = "docs/proof.md"
"""In a header: the numbers are on that page."""

_FIELDS = ("Command", "Hours", "Accuracy")


@dataclass(frozen=True)
class DescribedRecipe:
    """A recipe file with its header comment.

    Args:
        path: the YAML file.
        command: the command that runs the recipe, on one line.
        hours: duration of the training, with the source of the number.
        accuracy: likewise.
        data: the data set's title, if the header has ``Data:``; else "".
        values: key -> value, including those of its ``_base_``.
    """

    path: Path
    command: str
    hours: str
    accuracy: str
    data: str
    values: dict

    @property
    def model(self) -> str:
        return self.values["model"]

    @property
    def is_comparison(self) -> bool:
        """Whether it trains a variant that docs/proof.md compares with the model itself."""
        variants = ("model_args", "ghostify", "teacher")
        return self.accuracy == PROOF_PAGE and any(map(self.values.get, variants))

    @property
    def dataset(self) -> str:
        return self.values["dataset"]


def list_recipes(folder: str | os.PathLike) -> list[DescribedRecipe]:
    """Read all recipes of a folder, sorted by name."""
    return [describe_recipe(path) for path in sorted(Path(folder).glob("*.yaml"))]


def describe_recipe(path: str | os.PathLike) -> DescribedRecipe:
    """Read a recipe and its header comment.

    Raises:
        ReportError: if the header lacks one of ``Command:``, ``Hours:``, ``Accuracy:``.
    """
    path = Path(path)
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line[1:].rstrip())
    # A backslash continues the command on the next line, as in a shell.
    text = re.sub(r"\s*\\\n\s*", " ", "\n".join(head))
    found = dict(re.findall(r"^\s*(\w+):\s+(.+)$", text, re.MULTILINE))
    missing = [name for name in _FIELDS if name not in found]
    if not head or missing:
        raise ReportError(
            f"{path}: the header comment must say {', '.join(name + ':' for name in _FIELDS)}; "
            f"missing: {', '.join(missing) or 'all'}"
        )
    fields = {name.lower(): found[name].strip() for name in _FIELDS}
    return DescribedRecipe(path, data=found.get("Data", ""), values=_values(path), **fields)


def _values(path: Path) -> dict:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = values.pop("_base_", None)
    return {**_values(path.parent / base), **values} if base else values
