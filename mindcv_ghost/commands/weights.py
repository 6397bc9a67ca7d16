"""``mindcv-ghost weights``: list the published networks that come with this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.weights import Published, list_shipped

__all__ = ["main"]

_HEAD = ("model", "name", "model_args", "data", "top-1", "size", "licence")
_HOW = (
    "`mindcv-ghost publish RUN_DIR OUT --license LICENCE` packs a finished run into a folder, and "
    "`--pretrained OUT` uses it."
)


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=program("weights"),
        description="List the published networks that come with this package: --model MODEL "
        f"--pretrained NAME uses one. {_HOW}",
    )


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the list; return the exit status."""
    _parser().parse_args(argv)
    shipped = list_shipped()
    print(_table(shipped) if shipped else f"no weights come with this package. {_HOW}")
    return 0


def _table(shipped: Sequence[Published]) -> str:
    rows = [_HEAD, *map(_row, shipped)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(published: Published) -> tuple[str, ...]:
    card = published.card
    size = f"{published.weights.stat().st_size / 1e6:.2f} MB"
    arguments = " ".join(f"{key}={value}" for key, value in card.model_args.items())
    data = str(card.data.get("name", ""))
    return card.model, card.name, arguments or "-", data, card.top1, size, card.license
