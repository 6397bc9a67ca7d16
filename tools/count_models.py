"""Count parameters and MACs of the zoo's networks for the model page: results/complexity.json.

python -m tools.count_models
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mindspore

import mindcv_ghost
from mindcv_ghost.analysis.complexity import count_macs
from mindcv_ghost.report.files import write_text

OUT = Path(__file__).resolve().parents[1] / "results" / "complexity.json"
MODELS = [f"ghost_resnet{depth}" for depth in (18, 34, 50, 101, 152)]


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
        # Of the classifier, which comes last: other numbers of classes follow from it.
        "features": report.layers[-1].input_shape[-1],
    }


def main() -> int:
    """Count all and write the file."""
    models = [count(name, ratio) for name in MODELS for ratio in (2, 4)]
    result = {
        "kind": "complexity",
        "command": "python -m tools.count_models",
        "input": [3, 224, 224],
        "num_classes": 1000,
        "versions": {"mindspore": mindspore.__version__},
        "models": models,
    }
    write_text(OUT, json.dumps(result, indent=2) + "\n")
    print(f"{OUT}: {len(models)} networks counted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
