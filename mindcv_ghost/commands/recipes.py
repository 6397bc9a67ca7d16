"""``mindcv-ghost recipes``: list, print or copy the recipes that come with this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mindcv_ghost.config import load_config
from mindcv_ghost.config.shipped import list_recipes
from mindcv_ghost.errors import ConfigError, did_you_mean, tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.storage.atomic_file import write_text

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("recipes"),
        description="List the recipes that come with this package; `--config NAME` finds them. "
        "With NAME print that recipe.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("name", nargs="?", metavar="NAME", help="print this recipe")
    form.add_argument(
        "--copy",
        nargs="+",
        metavar=("NAME", "FOLDER"),
        help="copy this recipe into a folder (the working directory)",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that differs")
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """List, print or copy; return the exit status."""
    args = _parser().parse_args(argv)
    if args.copy:
        if len(args.copy) > 2:
            raise ConfigError(f"--copy takes a name and a folder, not {len(args.copy)} words")
        name, folder = (*args.copy, ".")[:2]
        print(_copy(name, Path(folder), args.force))
    elif args.name:
        sys.stdout.write(_recipe(args.name).read_text(encoding="utf-8"))
    else:
        print(_table())
    return 0


def _recipe(name: str) -> Path:
    recipes = list_recipes()
    if name not in recipes:
        hint = did_you_mean(name, recipes) or "."
        raise ConfigError(f"there is no recipe {name!r}{hint} `{program('recipes')}` lists them.")
    return recipes[name]


def _copy(name: str, folder: Path, force: bool) -> str:
    """Copy one recipe; return a line for the user. Its ``_base_`` is found by its name."""
    text = _recipe(name).read_text(encoding="utf-8")
    path = folder / f"{name}.yaml"
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return f"unchanged: {path}"
        if path.exists() and not force:
            raise ConfigError(f"{path} exists already and differs; --force replaces it")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as problem:
        raise ConfigError(f"{path} can't be written: {problem}") from None
    return f"written: {path}; use it with --config {path}"


def _table() -> str:
    rows = [("recipe", "model", "data set", "epochs", "")]
    for name, path in list_recipes().items():
        config = load_config(["--config", str(path)])
        epochs = str(config.train.epoch_size)
        rows.append((name, config.model.model, config.dataset.dataset, epochs, _title(path)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]).rstrip()
        for row in rows
    )


def _title(path: Path) -> str:
    """Return the first line of a recipe's header comment."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip(" .\n")
