"""Count parameters, MACs and activations of the model zoo: results/complexity.json.

python -m tools.measure.count_models

Commit first: a record names its code.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import mindcv
import mindspore
from mindcv.models import registry

import mindcv_ghost
from mindcv_ghost.analysis.complexity import ComplexityReport, count_macs
from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.models.papers import paper_of
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from tools.measure.commits import repeatable_commit

RESULTS = Path(__file__).resolve().parents[2] / "results"
OUT = RESULTS / "complexity.json"
MODELS = [f"ghost_resnet{depth}" for depth in (18, 34, 50, 101, 152)]


def zoo() -> list[str]:
    """Return the names of this package's models and of MindCV's GhostNets."""
    return [
        name
        for name in mindcv.list_models()
        if registry.model_entrypoint(name).__module__.startswith("mindcv_ghost.")
        or name.startswith("ghostnet_")
    ]


def count(name: str, ratio: int) -> dict:
    """Build a network for 1,000 classes and count it at 224x224."""
    report = count_macs(mindcv_ghost.create_model(name, ratio=ratio), (1, 3, 224, 224))
    return {
        "model": name,
        "ratio": ratio,
        "cheap_kernel_size": 3,
        "parameters": report.parameters,
        "moving_statistics": report.moving_statistics,
        "macs": report.macs,
        # Input of the classifier, the last layer: gives the counts for other numbers of classes.
        "features": report.layers[-1].input_shape[-1],
    }


def count_registered(name: str) -> dict:
    """Count a model with its default number of classes and input size."""
    config = registry.get_pretrained_cfg(name)
    shape = tuple(config.get("input_size", (3, 224, 224)))
    classes = config["num_classes"]
    report = count_macs(mindcv_ghost.create_model(name, num_classes=classes), (1, *shape))
    paper = paper_of(name)
    return {
        "model": name,
        "family": paper.family,
        "paper": {"authors": paper.authors, "arxiv": paper.arxiv},
        "input": list(shape),
        "num_classes": classes,
        **_numbers(report),
    }


def count_row(row: dict) -> dict:
    """Count the network that a row of the paper's tables is compared with."""
    network = mindcv_ghost.create_model(row["model"], **row["options"])
    report = count_macs(network, (1, 3, row["side"], row["side"]))
    options = {"model": row["model"], "options": row["options"], "side": row["side"]}
    return {**options, **_numbers(report)}


def _numbers(report: ComplexityReport) -> dict:
    convolutions = sum(layer.macs for layer in report.layers if layer.kind != "Dense")
    return {
        "parameters": report.parameters,
        "macs": report.macs,
        "convolution_macs": convolutions,
        "activations": report.activations,
        "peak_bytes": report.peak_bytes,
    }


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Count all networks and write the file; return the exit status."""
    argparse.ArgumentParser(prog="python -m tools.measure.count_models").parse_args(argv)
    commit = repeatable_commit()
    paper = json.loads((RESULTS / "paper_tables.json").read_text(encoding="utf-8"))
    rows = [row for table in paper["tables"] for row in table["rows"]]
    result = {
        "kind": "complexity",
        "command": "python -m tools.measure.count_models",
        "input": [3, 224, 224],
        "num_classes": 1000,
        "versions": {"mindspore": mindspore.__version__},
        "commit": commit,
        "date": utc_now(),
        "models": [count(name, ratio) for name in MODELS for ratio in (2, 4)],
        "registered": [count_registered(name) for name in zoo()],
        "paper_rows": [count_row(row) for row in rows],
    }
    write_text(OUT, json.dumps(result, indent=2) + "\n")
    print(f"{OUT}: {len(result['registered'])} models counted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
