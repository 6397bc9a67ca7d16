"""Measure the images/s of networks of the zoo, for docs/models.md: results/throughput.json.

python -m tools.measure.time_models [MODEL ...]

Inference in graph mode on random images in memory; compilation isn't counted. Run it on an idle
machine.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
from mindcv.models import registry

import mindcv_ghost
from mindcv_ghost import compat
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import source_commit, utc_now

OUT = Path(__file__).resolve().parents[2] / "results" / "throughput.json"
BATCH_SIZE = 8
RUNS = 7
# One of each family and kind of block. The whole zoo would take an hour to compile.
MODELS = [
    *("ghost_resnet18", "ghost_resnet50", "ghost_resnet50_s4", "ghost_resnet56_cifar"),
    *("ghost_vgg16_cifar", "ghostnet_100", "ghostnetv2_100", "ghostnetv3_100", "repghostnet_100"),
    *("g_ghost_regnetx_002", "g_ghost_regnetx_032"),
]


def images_per_second(name: str) -> float:
    """Return the median over :data:`RUNS` batches, after two for warm-up."""
    config = registry.get_pretrained_cfg(name)
    shape = tuple(config.get("input_size", (3, 224, 224)))
    network = mindcv_ghost.create_model(name, num_classes=config["num_classes"]).set_train(False)
    random = np.random.RandomState(0)
    images = ms.Tensor(random.standard_normal((BATCH_SIZE, *shape)).astype(np.float32))
    seconds = []
    for _ in range(RUNS + 2):
        started = time.perf_counter()
        network(images).asnumpy()
        seconds.append(time.perf_counter() - started)
    return BATCH_SIZE / statistics.median(seconds[2:])


def main() -> int:
    """Time the models and write the file; return the exit status."""
    compat.set_up("CPU", 0, ms.GRAPH_MODE, None)
    rows = []
    for name in sys.argv[1:] or MODELS:
        rows.append({"model": name, "images_per_second": round(images_per_second(name), 1)})
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "kind": "throughput",
        "command": "python -m tools.measure.time_models",
        "batch_size": BATCH_SIZE,
        "runs": RUNS,
        "hardware": describe_hardware(),
        "versions": compat.installed_versions(),
        "commit": source_commit(),
        "date": utc_now(),
        "models": rows,
    }
    write_text(OUT, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
