"""Put Ghost modules into every convolutional network that MindCV lists: results/ghostify.json.

python -m tools.measure.ghostify_models
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
from pathlib import Path

import mindcv
import mindspore
from mindspore.common import initializer

from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.surgery import ghostify

OUT = Path(__file__).resolve().parents[2] / "results" / "ghostify.json"
# MindCV's networks of attention or of linear layers: their convolutions, if any, cut patches.
NOT_CNNS = (
    *("cait", "cmt", "coat", "convit", "crossvit", "halonet", "mae", "mlp_mixer", "mobilevit"),
    *("edgenext", "pit", "poolformer", "pvt", "repmlp", "swin", "visformer", "vit", "volo", "xcit"),
)
RATIO = 2
# Of the images that a network is looked at with. What is replaced doesn't depend on it down to
# this size; VGG's classifier wants maps of 7x7.
SIDE, VGG_SIDE = 96, 224


def cnns() -> list[str]:
    """MindCV's own convolutional networks; this package's aren't registered with the host's."""
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
    # One of each family first: a run that is cut short has still seen all of them.
    rounds = itertools.zip_longest(*families.values())
    return [name for one_of_each in rounds for name in one_of_each if name]


def attempt(name: str) -> dict:
    """Replace what can be replaced in one network; say what came of it."""
    row = {"model": name, "family": _family(name)}
    try:
        network = mindcv.create_model(name)
    except Exception as problem:  # MindCV's own, whatever it is
        why = str(problem).splitlines()[0]
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


def main() -> int:
    """Try all and write the file."""
    # Values of weights don't count here, and drawing truncated ones takes minutes in all.
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
        "models": sorted(rows, key=lambda row: row["model"]),
    }
    write_text(OUT, json.dumps(result, indent=2) + "\n")
    works = sum(row["replaced"] > 0 for row in rows)
    print(f"{OUT}: {works} of {len(rows)} networks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
