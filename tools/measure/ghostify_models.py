"""Ghostify every convolutional network that MindCV lists: results/ghostify.json.

python -m tools.measure.ghostify_models

Commit first: a record names its code.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import sys
from pathlib import Path

import mindcv
import mindspore
from mindspore.common import initializer

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from mindcv_ghost.surgery import ghostify
from tools.measure.commits import repeatable_commit

OUT = Path(__file__).resolve().parents[2] / "results" / "ghostify.json"
# MindCV's networks of attention or linear layers. Their only convolutions, if any, embed patches.
NOT_CNNS = (
    *("cait", "cmt", "coat", "convit", "crossvit", "halonet", "mae", "mlp_mixer", "mobilevit"),
    *("edgenext", "pit", "poolformer", "pvt", "repmlp", "swin", "visformer", "vit", "volo", "xcit"),
)
RATIO = 2
# Side of the images that ghostify runs a network on. Smaller ones would change what is replaced;
# VGG's classifier needs feature maps of 7x7.
SIDE, VGG_SIDE = 96, 224


def cnns() -> list[str]:
    """Return MindCV's own convolutional networks, one of each family first."""
    from mindcv.models import registry

    names = [
        name
        for name in mindcv.list_models()
        if registry.model_entrypoint(name).__module__.startswith("mindcv.")
        and not name.startswith(NOT_CNNS)
    ]
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(_family(name), []).append(name)
    # A run that is stopped early has then tried every family.
    rounds = itertools.zip_longest(*families.values())
    return [name for one_of_each in rounds for name in one_of_each if name]


def attempt(name: str) -> dict:
    """Ghostify one network; return its row: what was replaced, or why nothing was."""
    row = {"model": name, "family": _family(name)}
    try:
        network = mindcv.create_model(name)
    except Exception as problem:  # MindCV raises errors of any type
        why = " ".join(str(problem).split()).partition(". ")[0]  # MindSpore prints tensors on lines
        return {
            **row,
            "replaced": 0,
            "reason": f"MindCV can't build it under this MindSpore: {why}",
        }
    try:
        side = VGG_SIDE if name.startswith("vgg") else SIDE
        _, report = ghostify(network, ratio=RATIO, image_size=side)
    except ValueError as problem:
        return {**row, "replaced": 0, "reason": str(problem)}
    return {
        **row,
        "replaced": len(report.replaced),
        "convolutions": len(report.convolutions),
        "with_norm": sum(bool(one.norm) for one in report.replaced),
        "parameters_before": report.before.parameters,
        "parameters_after": report.after.parameters,
    }


def _family(name: str) -> str:
    from mindcv.models import registry

    return registry.model_entrypoint(name).__module__.rsplit(".", 1)[-1]


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Ghostify all networks and write the file; return the exit status."""
    argparse.ArgumentParser(prog="python -m tools.measure.ghostify_models").parse_args(argv)
    commit = repeatable_commit()
    # The weights don't matter here, and truncated normal numbers take minutes to draw.
    initializer.TruncatedNormal._initialize = initializer.Normal._initialize
    rows = []
    for name in cnns():
        rows.append(attempt(name))
        print(json.dumps(rows[-1]), flush=True)
        gc.collect()
    result = {
        "kind": "ghostify",
        "command": "python -m tools.measure.ghostify_models",
        "ratio": RATIO,
        "cheap_kernel_size": 3,
        "versions": {"mindspore": mindspore.__version__, "mindcv": mindcv.__version__},
        "commit": commit,
        "date": utc_now(),
        "models": sorted(rows, key=lambda row: row["model"]),
    }
    write_text(OUT, json.dumps(result, indent=2) + "\n")
    works = sum(row["replaced"] > 0 for row in rows)
    print(f"{OUT}: {works} of {len(rows)} networks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
