"""Measure the images/s of the model zoo, for docs/models.md: results/throughput.json.

python -m tools.measure.time_models [MODEL ...]

Inference in graph mode with this package's operators, as validate.py runs it, on random images in
memory, one by one and in batches of 32. Compilation isn't counted. The file is written after each
model; the same command goes on where it was stopped, unless code, machine or versions have changed.
Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import gc
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
from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import source_commit, utc_now
from tools.measure.count_models import zoo

OUT = Path(__file__).resolve().parents[2] / "results" / "throughput.json"
BATCH_SIZES = (1, 32)
WARM_UP = 2
MIN_RUNS, MAX_RUNS, SECONDS = 3, 50, 2.0


def images_per_second(name: str) -> dict[str, float]:
    """Measure one model.

    Returns:
        batch size -> images a second, from the median of 3 to 50 runs in about two seconds.
    """
    config = registry.get_pretrained_cfg(name)
    shape = tuple(config.get("input_size", (3, 224, 224)))
    network = mindcv_ghost.create_model(name, num_classes=config["num_classes"]).set_train(False)
    mindcv_ghost.accelerate(network)
    random = np.random.RandomState(0)
    found = {}
    for batch_size in BATCH_SIZES:
        images = ms.Tensor(random.standard_normal((batch_size, *shape)).astype(np.float32))
        for _ in range(WARM_UP):
            network(images).asnumpy()
        seconds: list[float] = []
        while len(seconds) < MIN_RUNS or (sum(seconds) < SECONDS and len(seconds) < MAX_RUNS):
            started = time.perf_counter()
            network(images).asnumpy()
            seconds.append(time.perf_counter() - started)
        found[str(batch_size)] = float(f"{batch_size / statistics.median(seconds):.4g}")
    return found


def conditions() -> dict:
    """Return what all rows of the file have in common."""
    return {
        "kind": "throughput",
        "command": "python -m tools.measure.time_models",
        "batch_sizes": list(BATCH_SIZES),
        "hardware": describe_hardware(),
        "versions": compat.installed_versions(),
        "commit": source_commit(),
    }


def measured(path: Path, wanted: dict) -> list[dict]:
    """Return the rows of a file that was measured under the same conditions; else none."""
    if not path.exists():
        return []
    result = read_json(path)
    same = all(result.get(key) == value for key, value in wanted.items())
    return result["models"] if same else []


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Time the models and write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure.time_models")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="by default the whole zoo")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file (%(default)s)")
    arguments = parser.parse_args(argv)
    compat.set_up("CPU", 0, ms.GRAPH_MODE, None)
    common = conditions()
    rows = measured(arguments.out, common)
    done = {row["model"] for row in rows}
    for name in arguments.models or zoo():
        if name in done:
            continue
        rows.append({"model": name, "images_per_second": images_per_second(name)})
        print(json.dumps(rows[-1]), flush=True)
        text = json.dumps({**common, "date": utc_now(), "models": rows}, indent=2)
        write_text(arguments.out, text + "\n")
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
