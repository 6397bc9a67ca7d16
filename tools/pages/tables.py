"""Write the tables of the pages from recorded results, so that no number is typed by hand.

    python -m tools.pages.tables           # update the pages
    python -m tools.pages.tables --check   # exit status 1 if a page is out of date

A table stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; NAME is one of
``results``, ``runs``, ``paper``, ``counts``, ``classifier``, ``recipes``, ``digits``, ``models``,
``throughput``, ``paper_tables``, ``ghostify``, ``ghostify_digits``, ``benchmarks``, ``scaling``,
``chart``, ``profile``, ``profile_operators``, ``profile_chart``, ``releases``, ``support``,
``shipped``, ``calls``, ``keys``, ``digits_settings``, ``export``, ``export_failures``, ``int8``,
``int8_trials``, ``int8_kinds`` and ``int8_schemes``, or one of ``tools.pages.proof``.

The sources are ``results/*.json`` (of the kinds run, complexity, throughput, paper, paper_tables,
ghostify, ghostify_digits, digits_settings, support, export, int8), ``results/proof/*.json``,
``results.csv``, ``profile.csv`` and ``releases.csv`` in ``benchmarks``, the recipes' header
comments, the cards of the weights that come with this package, and its own tables of keys and of
calls.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.progress import format_duration
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.weights import list_shipped
from tools.pages import markdown
from tools.pages.benchmarks import benchmark_tables, read_results, scaling_table
from tools.pages.digits_settings import DIGITS_SETTINGS_HEAD, digits_settings_rows
from tools.pages.export import EXPORT_HEAD, export_failures, export_rows, export_sentence
from tools.pages.int8 import (
    int8_kinds_table,
    int8_networks_table,
    int8_schemes_table,
    int8_trials_table,
)
from tools.pages.keys import keys_table
from tools.pages.profile import chart_link, operator_table, part_table, read_profile
from tools.pages.proof import PROOF_SECTIONS, read_proof, recipe_summary
from tools.pages.recipe_header import PROOF_PAGE, DescribedRecipe, list_recipes
from tools.pages.releases import read_releases, releases_table
from tools.pages.shipped import SHIPPED_HEAD, shipped_rows
from tools.pages.support import calls_table, support_table
from tools.pages.zoo_tables import (
    GHOSTIFY_HEAD,
    MODEL_HEAD,
    PAPER_HEAD,
    ghostify_digits_rows,
    ghostify_digits_sentence,
    ghostify_rows,
    ghostify_sentence,
    models_rows,
    paper_tables,
    throughput_sentence,
)

__all__ = ["Sources", "fill", "main", "pages"]

# Results of which there is one file each.
_SINGLE = frozenset(
    {
        *("digits_settings", "export", "ghostify", "ghostify_digits", "int8", "paper_tables"),
        "support",
        "throughput",
    }
)
_DATASETS = {
    "imagenet": "ImageNet-1K",
    "cifar10": "CIFAR-10",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "Handwritten digits",
}
_MARKED = re.compile(r"<!-- (\w+):begin -->\n(.*?)<!-- \1:end -->", re.DOTALL)


class Sources:
    """All results that the tables are made from.

    Args:
        root: the project's folder.

    Raises:
        ReportError: if a result can't be read.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root)
        self.recipes = list_recipes(self.root / "configs" / "ghostnet")
        self.benchmarks = read_results(self.root / "benchmarks" / "results.csv")
        self.profile = read_profile(self.root / "benchmarks" / "profile.csv")
        self.releases = read_releases(self.root / "benchmarks" / "releases.csv")
        self.runs, self.complexity, self.paper = [], [], {"source": "", "rows": []}
        self.registered, self.paper_rows, self.paper_tables = [], [], {"tables": []}
        self.ghostify, self.throughput = {"models": []}, {"models": []}
        self.ghostify_digits, self.digits_settings = {"parts": []}, {"runs": []}
        self.support, self.export = {"rows": []}, {"rows": []}
        self.int8 = {"networks": [], "schemes": []}
        self.proof = read_proof(self.root / "results" / "proof")
        for path in sorted((self.root / "results").glob("*.json")):
            result = read_json(path)
            kind = result.get("kind")
            if kind == "run":
                self.runs.append(result)
            elif kind == "complexity":
                self.complexity = result["models"]
                self.registered = result.get("registered", [])
                self.paper_rows = result.get("paper_rows", [])
            elif kind == "paper":
                self.paper = result
            elif kind in _SINGLE:
                setattr(self, kind, result)
            else:
                kinds = ", ".join(["run", "complexity", "paper", *sorted(_SINGLE)])
                raise ReportError(f"{path}: kind is {kind!r}, not {kinds}")

    def counted(self, model: str, ratio: int) -> dict | None:
        """Return a model's counts at 224x224 with 1000 classes, if it was counted."""
        for entry in self.complexity:
            if (entry["model"], entry["ratio"]) == (model, ratio):
                return entry
        return None


def results_table(sources: Sources, page: Path) -> str:
    """Return a table per data set, with MindCV's columns and a row per recipe and run."""
    parts = []
    titles = dict.fromkeys([*_DATASETS.values(), *map(_data_title, sources.recipes)])
    for title in titles:
        recipes = [recipe for recipe in sources.recipes if _data_title(recipe) == title]
        rows = []
        for recipe in recipes:
            runs = [run for run in sources.runs if run["recipe"] == recipe.path.name]
            rows += [_run_row(run, recipe, sources, page) for run in runs]
            summary = recipe_summary(sources.proof, recipe.path.name)
            if summary is not None:
                rows.append(_proof_row(summary, recipe, sources, page))
            elif not runs:
                rows.append(_unmeasured_row(recipe, sources, page))
        head = ("Model", "Context", "Top-1 (%)", "Top-5 (%)", "Params (M)", "Train T. (s/epoch)")
        head += ("Infer T. (ms/step)", "Download", "Config", "Log")
        if rows:
            parts.append(f"**{title}**\n\n{markdown.table(head, rows)}")
    return "\n".join(parts)


def _data_title(recipe: DescribedRecipe) -> str:
    return recipe.data or _DATASETS.get(recipe.dataset, recipe.dataset)


def _run_row(run: dict, recipe: DescribedRecipe, sources: Sources, page: Path) -> tuple:
    topk = f"{run['topk']:.2f}" + ("" if run["k"] == 5 else f" (top-{run['k']})")
    batch = f"{run['infer_batch_size']}"
    batch += f" x {run['infer_ranks']}" if run["infer_ranks"] > 1 else ""
    log = _link("log", sources.root / "results" / run["log"], page)
    metrics = _link("metrics", sources.root / "results" / run["metrics"], page)
    return (
        _name(run["model"], run["model_args"].get("ratio", 2)),
        f"{run['device']}x{run['ranks']}-{run['mode'][0].upper()}",
        f"{run['top1']:.2f}",
        topk,
        f"{run['parameters'] / 1e6:.2f}",
        f"{run['train_seconds_per_epoch']:.1f}",
        f"{run['infer_ms_per_step']:.1f} (batch {batch})",
        "–",
        _link("cfg", recipe.path, page),
        f"{log}, {metrics}",
    )


def _proof_row(summary: dict, recipe: DescribedRecipe, sources: Sources, page: Path) -> tuple:
    seeds, published = summary["seeds"], summary["published"]
    download = "–"
    if published is not None:
        download = _link(f"`{published.folder.name}`", published.folder, page)
    return (
        _network_name(recipe),
        summary["context"],
        f"{summary['top1']} ({seeds} seed{'s' * (seeds > 1)})",
        summary["top5"],
        f"{summary['parameters'] / 1e6:.2f}",
        summary["epoch_seconds"],
        summary["inference"],
        download,
        _link("cfg", recipe.path, page),
        _link("runs", sources.root / PROOF_PAGE, page),
    )


def _unmeasured_row(recipe: DescribedRecipe, sources: Sources, page: Path) -> tuple:
    ratio = (recipe.values.get("model_args") or {}).get("ratio", 2)
    entry = sources.counted(recipe.model, ratio)
    parameters = "–"
    if entry is not None:
        classifier = entry["features"] + 1
        count = entry["parameters"] + classifier * (recipe.values["num_classes"] - 1000)
        parameters = f"{count / 1e6:.2f}"
    for entry in sources.registered:
        asked = (recipe.model, recipe.values["num_classes"])
        # They were counted with the models' default arguments.
        default = not recipe.values.get("model_args") and recipe.values.get("in_channels", 3) == 3
        if parameters == "–" and default and (entry["model"], entry["num_classes"]) == asked:
            parameters = f"{entry['parameters'] / 1e6:.2f}"
    unknown = markdown.NOT_MEASURED
    cells = (_network_name(recipe), "–", unknown, unknown, parameters, unknown, unknown)
    return (*cells, "–", _link("cfg", recipe.path, page), "–")


def runs_list(sources: Sources, page: Path) -> str:
    """Return a list of the recorded runs: versions, machine, commit."""
    lines = []
    for run in sources.runs:
        versions = ", ".join(f"{name} {number}" for name, number in sorted(run["versions"].items()))
        lines.append(
            f"- `{run['recipe']}`: {run['epochs']} epochs, {run['images']:,} validation images, "
            f"seed {run['seed']}, commit `{run['commit']}`, {run['date'][:10]}, "
            f"{run['hardware']}; {versions}."
        )
    return "\n".join(lines or ["- No run has been recorded yet."]) + "\n"


def paper_table(sources: Sources, page: Path) -> str:
    """Return the table of the paper's own numbers."""
    head = ("Model (the paper's)", "Top-1 (%)", "Top-5 (%)", "Weights (M)", "FLOPs (B)")
    keys = ("name", "top1", "top5", "params_m", "flops_b")
    rows = [tuple(row[key] for key in keys) for row in sources.paper["rows"]]
    return f"{markdown.table(head, rows)}\nSource: {sources.paper['source']}\n"


def counts_table(sources: Sources, page: Path) -> str:
    """Return the table of our networks' parameters and multiply-adds beside the paper's."""
    head = (
        "Model",
        "ratio",
        "Params",
        "Params (M)",
        "MACs (G)",
        "Weights (paper, M)",
        "FLOPs (paper, B)",
    )
    rows = []
    for entry in sources.complexity:
        model, ratio = entry["model"], entry["ratio"]
        paper = [r for r in sources.paper["rows"] if (r["model"], r["ratio"]) == (model, ratio)]
        rows.append(
            (
                f"`{model}`",
                ratio,
                f"{entry['parameters']:,}",
                f"{entry['parameters'] / 1e6:.2f}",
                f"{entry['macs'] / 1e9:.3f}",
                paper[0]["params_m"] if paper else "–",
                paper[0]["flops_b"] if paper else "–",
            )
        )
    return markdown.table(head, rows)


def classifier_sentence(sources: Sources, page: Path) -> str:
    """Return how many parameters there would be if the classifier were a Ghost module, too."""
    words = []
    for ratio in (2, 4):
        entry = sources.counted("ghost_resnet50", ratio)
        if entry is None:
            return f"{markdown.NOT_MEASURED}\n"
        ghosted = with_ghosted_classifier(entry["parameters"], entry["features"], 1000, ratio)
        words.append(f"{ghosted / 1e6:.2f} M (ratio {ratio})")
    return (
        f"With a Ghost module for a classifier the parameters would be {' and '.join(words)}: near "
        "the paper's, but not the same.\n"
    )


def with_ghosted_classifier(parameters: int, features: int, classes: int, ratio: int) -> int:
    """Count parameters with the classifier as a Ghost module with d = 1 and biases.

    >>> with_ghosted_classifier(13_953_512, 2048, 1000, 2)
    12930012
    """
    intrinsic = -(-classes // ratio)
    plain = (features + 1) * classes
    return parameters - plain + (features + 1) * intrinsic + 2 * (classes - intrinsic)


def recipes_table(sources: Sources, page: Path) -> str:
    """Return the table of recipes, with what their header comments say."""
    rows = [
        (
            _link(recipe.path.name, recipe.path, page),
            f"`{recipe.model}`",
            _data_title(recipe),
            recipe.values["epoch_size"],
            *_hours_and_accuracy(recipe, sources, page),
        )
        for recipe in sources.recipes
    ]
    return markdown.table(("Recipe", "Model", "Data", "Epochs", "Hours", "Accuracy"), rows)


def _hours_and_accuracy(recipe: DescribedRecipe, sources: Sources, page: Path) -> tuple[str, str]:
    if recipe.accuracy != PROOF_PAGE:
        return recipe.hours, recipe.accuracy
    summary = recipe_summary(sources.proof, recipe.path.name)
    if summary is None:
        return markdown.NOT_MEASURED, markdown.NOT_MEASURED
    source = _link("measured", sources.root / PROOF_PAGE, page)
    return f"{summary['hours']}, {source}", f"{summary['top1']} % top-1 ({source})"


def digits_sentence(sources: Sources, page: Path) -> str:
    """Return the quick start's result in a sentence."""
    runs = [run for run in sources.runs if run["dataset"] == "digits"]
    if not runs:
        return f"The quick start's result: {markdown.NOT_MEASURED}.\n"
    run = max(runs, key=lambda run: run["date"])
    return (
        f"Measured: {run['top1']:.2f} % top-1 of the {run['images']} validation digits in the best "
        f"of {run['epochs']} epochs, which these digits chose; "
        f"{format_duration(run['train_seconds'])} of training in "
        f"{run['ranks']} processes on {run['hardware']} (MindSpore {run['versions']['mindspore']}, "
        f"commit `{run['commit']}`).\n"
    )


def models_table(sources: Sources, page: Path) -> str:
    """Return the table of all registered models."""
    rows = models_rows(sources.registered, sources.recipes, page, sources.throughput)
    return markdown.table(MODEL_HEAD, rows)


def throughput_words(sources: Sources, page: Path) -> str:
    """Return how the images/s of the models table were measured."""
    return throughput_sentence(sources.throughput)


def ghostify_table(sources: Sources, page: Path) -> str:
    """Return the table of MindCV's convolutional networks before and after ghostify."""
    rows = ghostify_rows(sources.ghostify)
    return f"{ghostify_sentence(sources.ghostify)}\n{markdown.table(GHOSTIFY_HEAD, rows)}"


def ghostify_digits_table(sources: Sources, page: Path) -> str:
    """Return the table that compares fitted with random initialisation on the digits."""
    sentence = ghostify_digits_sentence(sources.ghostify_digits)
    if not sources.ghostify_digits["parts"]:
        return sentence
    head, rows = ghostify_digits_rows(sources.ghostify_digits)
    return f"{sentence}\n{markdown.table(head, rows)}"


def digits_settings_table(sources: Sources, page: Path) -> str:
    """Return the table of settings that were tried for the quick start."""
    rows = digits_settings_rows(sources.digits_settings["runs"])
    return markdown.table(DIGITS_SETTINGS_HEAD, rows)


def export_table(sources: Sources, page: Path) -> str:
    """Return the table of the families' export to ONNX."""
    sentence = export_sentence(sources.export)
    return f"{sentence}\n{markdown.table(EXPORT_HEAD, export_rows(sources.export))}"


def all_paper_tables(sources: Sources, page: Path) -> str:
    """Return the paper's tables with our numbers beside its own."""
    tables = paper_tables(sources.paper_tables, sources.paper_rows)
    return "\n".join(f"**{title}**\n\n{markdown.table(PAPER_HEAD, rows)}" for title, rows in tables)


def chart(sources: Sources, page: Path) -> str:
    """Return the link to the page's chart, if anything was measured."""
    if not any(row["ratio"] is not None for row in sources.benchmarks):
        return f"{markdown.NOT_MEASURED}\n"
    return f"![Ratios to the rivals, and the goals]({page.stem}.png)\n"


_SECTIONS = {
    "results": results_table,
    "runs": runs_list,
    "paper": paper_table,
    "counts": counts_table,
    "classifier": classifier_sentence,
    "recipes": recipes_table,
    "digits": digits_sentence,
    "models": models_table,
    "throughput": throughput_words,
    "ghostify": ghostify_table,
    "ghostify_digits": ghostify_digits_table,
    "paper_tables": all_paper_tables,
    "benchmarks": lambda sources, page: benchmark_tables(sources.benchmarks),
    "scaling": lambda sources, page: scaling_table(sources.benchmarks),
    "chart": chart,
    "profile": lambda sources, page: part_table(sources.profile),
    "profile_operators": lambda sources, page: operator_table(sources.profile),
    "profile_chart": lambda sources, page: chart_link(sources.profile, page.stem),
    "releases": lambda sources, page: releases_table(sources.releases),
    "shipped": lambda sources, page: markdown.table(SHIPPED_HEAD, shipped_rows(list_shipped())),
    "support": lambda sources, page: support_table(sources.support["rows"]),
    "calls": lambda sources, page: calls_table(),
    "keys": lambda sources, page: keys_table(),
    "digits_settings": digits_settings_table,
    "export": export_table,
    "export_failures": lambda sources, page: export_failures(sources.export),
    "int8": lambda sources, page: int8_networks_table(sources.int8),
    "int8_trials": lambda sources, page: int8_trials_table(sources.int8),
    "int8_kinds": lambda sources, page: int8_kinds_table(sources.int8),
    "int8_schemes": lambda sources, page: int8_schemes_table(sources.int8),
    **{
        name: lambda sources, page, section=section: section(sources.proof)
        for name, section in PROOF_SECTIONS.items()
    },
}


def fill(page: Path, text: str, sources: Sources) -> str:
    """Return a page's text with up-to-date tables.

    Args:
        page: the page's path, which links are relative to.
        text: Markdown with markers.
        sources: the results.

    Raises:
        ReportError: if a marker has no end, or an unknown name.
    """
    marked = {match.group(1) for match in _MARKED.finditer(text)}
    unpaired = set(re.findall(r"<!-- (\w+):(?:begin|end) -->", text)) - marked
    if unpaired:
        raise ReportError(
            f"{page}: {', '.join(sorted(unpaired))} needs both :begin and :end, each once"
        )
    unknown = marked - set(_SECTIONS)
    if unknown:
        raise ReportError(
            f"{page}: no table {', '.join(sorted(unknown))}; there are {', '.join(_SECTIONS)}"
        )

    def section(match: re.Match) -> str:
        name = match.group(1)
        body = _SECTIONS[name](sources, page)
        # Without the empty lines some Markdown readers make the table a part of the comment.
        return f"<!-- {name}:begin -->\n\n{body}\n<!-- {name}:end -->"

    return _MARKED.sub(section, text)


def pages(root: str | os.PathLike) -> list[Path]:
    """Return the pages that have markers."""
    root = Path(root)
    found = [root / "README.md", *sorted(root.glob("configs/*/README.md"))]
    found += sorted(root.glob("docs/*.md"))
    return [page for page in found if page.is_file() and _MARKED.search(page.read_text("utf-8"))]


def _network_name(recipe: DescribedRecipe) -> str:
    """Return the model with its arguments, if they aren't the default ones."""
    arguments = dict(recipe.values.get("model_args") or {})
    words = [f"{key} {value}" for key, value in arguments.items()]
    words = [f"fitted to {', '.join(words)}"] if recipe.values.get("ghostify") else words
    words += ["distilled"] if recipe.values.get("teacher") else []
    return f"{recipe.model} ({', '.join(words)})" if words else recipe.model


def _name(model: str, ratio: int) -> str:
    return f"{model} (ratio {ratio})" if ratio != 2 else model


def _link(words: str, target: Path, page: Path) -> str:
    return f"[{words}]({Path(os.path.relpath(target, page.parent)).as_posix()})"


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Update the pages, or check that they are up to date; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.pages.tables")
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if stale")
    parser.add_argument("--root", default=".", help="the project's folder")
    arguments = parser.parse_args(argv)
    sources = Sources(arguments.root)
    new = {page: fill(page, page.read_text("utf-8"), sources) for page in pages(arguments.root)}
    stale = [page for page, text in new.items() if page.read_text("utf-8") != text]
    for page in stale:
        if arguments.check:
            print(f"{page} is stale: run python -m tools.pages.tables")
        else:
            write_text(page, new[page])
            print(f"{page} written")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
