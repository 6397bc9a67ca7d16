"""The rows of the tables in docs/models.md, docs/paper_tables.md and docs/ghostify.md."""

from __future__ import annotations

import os
from pathlib import Path

from mindcv_ghost.report import ReportError
from tools.pages.markdown import mean_and_spread

__all__ = [
    "GHOSTIFY_HEAD",
    "MODEL_HEAD",
    "PAPER_HEAD",
    "ghostify_digits_rows",
    "ghostify_digits_sentence",
    "ghostify_rows",
    "ghostify_sentence",
    "models_rows",
    "paper_tables",
    "throughput_sentence",
]

MODEL_HEAD = ("Model", "Family", "Paper", "Params (M)", "MACs (M)", "Activations (M)")
MODEL_HEAD += ("Peak memory (MB)", "Images/s, batch 1", "batch 32", "Input", "Recipe")
GHOSTIFY_HEAD = ("Network", "Replaced", "with BN", "Params (M)", "after")
PAPER_HEAD = ("Row", "Model", "Params (M), paper", "ours", "difference")
PAPER_HEAD += ("FLOPs (M), paper", "ours", "difference", "reason")


def models_rows(registered: list[dict], recipes: list, page: Path, throughput: dict) -> list[tuple]:
    """Return one row per registered model.

    Args:
        registered: entries of ``results/complexity.json``.
        recipes: the recipes, as :func:`tools.pages.recipe_header.list_recipes` reads them.
        page: the page, which links are relative to.
        throughput: ``results/throughput.json``.

    Raises:
        ReportError: if a model has no recipe.
    """
    rows = []
    measured = {row["model"]: row["images_per_second"] for row in throughput["models"]}
    for entry in registered:
        model = entry["model"]
        paths = [recipe.path for recipe in recipes if recipe.model == model]
        if not paths:
            raise ReportError(f"{model} has no recipe in configs/ghostnet")
        paths = [r.path for r in recipes if r.model == model and not r.is_comparison] or paths
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
                *(_rate(measured.get(model, {}).get(size)) for size in ("1", "32")),
                "x".join(map(str, entry["input"])),
                ", ".join(links),
            )
        )
    return rows


def paper_tables(paper: dict, counted: list[dict]) -> list[tuple[str, list[tuple]]]:
    """Return the title and the rows of each of the paper's tables, with our numbers.

    Args:
        paper: ``results/paper_tables.json``.
        counted: our counts for its rows, in the same order.

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
        raise ReportError(f"{row['name']}: not counted; run python -m tools.measure.count_models")
    macs = ours["convolution_macs" if table["macs"] == "convolutions" else "macs"]
    parameters, parameters_agree = _compare(row["params_m"], ours["parameters"] / 1e6)
    operations, operations_agree = _compare(row["macs_m"], macs / 1e6)
    agree = parameters_agree and operations_agree
    if agree == bool(row["reason"]):
        raise ReportError(
            f"{table['title']}, {row['name']}: "
            + ("agrees with the paper, but has a reason" if agree else "differs without a reason")
        )
    options = "".join(f" {key}={value}" for key, value in row["options"].items())
    return (row["name"], f"`{row['model']}{options}`", *parameters, *operations,
            row["reason"] or "agrees")  # fmt: skip


def _compare(paper: str, ours: float) -> tuple[tuple[str, str, str], bool]:
    """Compare a number of the paper with ours.

    Returns:
        (the paper's, ours with two more digits, the difference), and whether ours rounds to it.

    >>> _compare("7.7", 7.650474)
    (('7.7', '7.650', '-0.050'), True)
    >>> _compare("2200", 2151.02)
    (('2200', '2,151', '-49'), True)
    """
    # Trailing zeros of a whole number aren't significant: 2200 million stands for 2.2 billion.
    decimals = len(paper.partition(".")[2])
    if not decimals and paper.endswith("00"):
        decimals = -2
    agrees = round(ours, decimals) == round(float(paper), decimals)
    shown = decimals + 2
    return (paper, f"{ours:,.{shown}f}", f"{ours - float(paper):+,.{shown}f}"), agrees


def throughput_sentence(throughput: dict) -> str:
    """Return how the images/s were measured."""
    if not throughput["models"]:
        return "Images a second: not measured.\n"
    return (
        "Images a second: inference in graph mode with this package's operators on "
        f"{throughput['hardware']} (MindSpore {throughput['versions']['mindspore']}, commit "
        f"`{throughput['commit']}`); medians of {throughput['rounds']} rounds, in which the "
        "networks took turns. A dash: not measured. Parallel branches were added up at each "
        "call; parameters and MACs are those of the form that is trained.\n"
    )


def _rate(images_per_second: float | None) -> str:
    if images_per_second is None:
        return "–"
    return f"{images_per_second:,.{0 if images_per_second >= 10 else 1}f}"


def ghostify_sentence(ghostify: dict) -> str:
    """Return how many of MindCV's networks can be ghostified."""
    rows = ghostify["models"]
    if not rows:
        return "Not measured.\n"
    works = sum(row["replaced"] > 0 for row in rows)
    return (
        f"{works} of the {len(rows)} convolutional networks that MindCV "
        f"{ghostify['versions']['mindcv']} lists, with ratio {ghostify['ratio']}:\n"
    )


def ghostify_rows(ghostify: dict) -> list[tuple]:
    """Return one row per network: replaced convolutions and parameters, or why none."""
    rows = []
    for row in ghostify["models"]:
        if not row["replaced"]:
            rows.append((f"`{row['model']}`", f"none: {row['reason']}", *("–",) * 3))
            continue
        rows.append(
            (
                f"`{row['model']}`",
                f"{row['replaced']} of {row['convolutions']}",
                row["with_norm"],
                f"{row['parameters_before'] / 1e6:.2f}",
                f"{row['parameters_after'] / 1e6:.2f}",
            )
        )
    return rows


def ghostify_digits_sentence(result: dict) -> str:
    """Return how benchmarks/ghostify_digits.py measured."""
    if not result["parts"]:
        return "Not measured.\n"
    seeds = {part["seed"] for part in result["parts"]}
    tuning, side = result["fine_tuning"], result["image_size"]
    return (
        f"{result['model']} on handwritten digits at {side}x{side}, trained for "
        f"{result['training']['epochs']} epochs, then ghostified (ratio {result['ratio']}, "
        f"{result['calibration_images']} calibration images) and trained for "
        f"{tuning['epochs']} more (learning rate {tuning['lr']}, cosine). Top-1 (%) of the 360 "
        f"held-out digits, mean ± standard deviation of {len(seeds)} seeds "
        f"({result['hardware']}, MindSpore {result['versions']['mindspore']}, commit "
        f"`{result['commit']}`):\n"
    )


def ghostify_digits_rows(result: dict) -> tuple[tuple, list[tuple]]:
    """Return the head and the rows: top-1 after each epoch for either initialisation."""
    epochs = result["fine_tuning"]["epochs"]
    head = ("Network", "Params (M)", "MACs (M)", "at the start")
    head += tuple(f"epoch {epoch}" for epoch in range(1, epochs + 1))
    names = {"base": f"`{result['model']}`, as trained"}
    names |= {init: f'`ghostify(init="{init}")`' for init in ("random", "fit")}
    rows = []
    for part, name in names.items():
        parts = [entry for entry in result["parts"] if entry["part"] == part]
        cells = [mean_and_spread(values) for values in zip(*(entry["top1"] for entry in parts))]
        cells = [cells[-1], *["–"] * epochs] if part == "base" else cells
        cost = [f"{parts[0][key] / 1e6:.2f}" for key in ("parameters", "macs")]
        rows.append((name, *cost, *cells))
    return head, rows
