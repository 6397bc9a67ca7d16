"""The tables of docs/models.md and docs/paper_tables.md, from results/complexity.json."""

from __future__ import annotations

import os
from pathlib import Path

from mindcv_ghost.report import ReportError

__all__ = ["models_rows", "paper_tables"]

MODEL_HEAD = ("Model", "Family", "Paper", "Params (M)", "MACs (M)", "Activations (M)")
MODEL_HEAD += ("Peak memory (MB)", "Input", "Recipe")
PAPER_HEAD = ("Row", "Model", "Params (M), paper", "ours", "difference")
PAPER_HEAD += ("FLOPs (M), paper", "ours", "difference", "reason")


def models_rows(registered: list[dict], recipes: list, page: Path) -> list[tuple]:
    """One row a registered model.

    Args:
        registered: entries of ``results/complexity.json``.
        recipes: the recipes, as :func:`mindcv_ghost.report.recipes.list_recipes` reads them.
        page: the page that links to them.

    Raises:
        ReportError: if a model has no recipe.
    """
    rows = []
    for entry in registered:
        model = entry["model"]
        paths = [recipe.path for recipe in recipes if recipe.model == model]
        if not paths:
            raise ReportError(f"{model} has no recipe in configs/ghostnet")
        links = [
            f"[{path.stem[len(model) + 1 :]}]({os.path.relpath(path, page.parent)})"
            for path in paths
        ]
        arxiv = entry["paper"]["arxiv"]
        rows.append(
            (
                f"`{model}`",
                entry["family"],
                f"[{entry['paper']['authors']}](https://arxiv.org/abs/{arxiv})",
                f"{entry['parameters'] / 1e6:.2f}",
                f"{entry['macs'] / 1e6:,.1f}",
                f"{entry['activations'] / 1e6:.2f}",
                f"{entry['peak_bytes'] / 1e6:.1f}",
                "x".join(map(str, entry["input"])),
                ", ".join(links),
            )
        )
    return rows


def paper_tables(paper: dict, counted: list[dict]) -> list[tuple[str, list[tuple]]]:
    """Every table of the paper as its title and its rows, ours beside the paper's.

    Args:
        paper: ``results/paper_tables.json``.
        counted: what was counted for its rows, in their order.

    Raises:
        ReportError: if a row wasn't counted, or differs from the paper without a reason, or has a
            reason though it agrees.
    """
    found = iter(counted)
    return [
        (f"{table['title']}", [_paper_row(row, next(found, None), table) for row in table["rows"]])
        for table in paper["tables"]
    ]


def _paper_row(row: dict, ours: dict | None, table: dict) -> tuple:
    asked = {key: row[key] for key in ("model", "options", "side")}
    if ours is None or asked != {key: ours[key] for key in asked}:
        raise ReportError(f"{row['name']}: not counted; run python -m tools.count_models")
    macs = ours["convolution_macs" if table["macs"] == "convolutions" else "macs"]
    parameters, parameters_agree = _beside(row["params_m"], ours["parameters"] / 1e6)
    operations, operations_agree = _beside(row["macs_m"], macs / 1e6)
    agree = parameters_agree and operations_agree
    if agree == bool(row["reason"]):
        raise ReportError(
            f"{table['title']}, {row['name']}: "
            + ("agrees with the paper, but has a reason" if agree else "differs without a reason")
        )
    options = "".join(f" {key}={value}" for key, value in row["options"].items())
    return (row["name"], f"`{row['model']}{options}`", *parameters, *operations,
            row["reason"] or "agrees")  # fmt: skip


def _beside(paper: str, ours: float) -> tuple[tuple[str, str, str], bool]:
    """The paper's number, ours with two digits more, their difference; whether ours rounds to it.

    >>> _beside("7.7", 7.650474)
    (('7.7', '7.650', '-0.050'), True)
    >>> _beside("2200", 2151.02)
    (('2200', '2,151', '-49'), True)
    """
    # Trailing noughts of a whole number (2.2 billion as 2200 million) aren't digits of it.
    decimals = len(paper.partition(".")[2])
    if not decimals and paper.endswith("00"):
        decimals = -2
    agrees = round(ours, decimals) == round(float(paper), decimals)
    shown = decimals + 2
    return (paper, f"{ours:,.{shown}f}", f"{ours - float(paper):+,.{shown}f}"), agrees
