"""Measure the images/s of the model zoo, for docs/models.md: results/throughput.json.

python -m tools.measure.time_models [MODEL ...]

Inference in graph mode with this package's operators, as validate.py runs it, on random images in
memory, one by one and in batches of 32. All networks are compiled first, and then take turns, in
several rounds: on a machine that is busy for a while all are slowed alike. Compiling them takes
nearly ten minutes on two cores. Run it on an idle machine, and commit first: a record names its
code.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
from mindcv.models import registry

import mindcv_ghost
from mindcv_ghost import compat
from mindcv_ghost.errors import UserError, tells_user_errors
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from tools.measure.commits import repeatable_commit
from tools.measure.count_models import zoo
from tools.measure.turns import evaluations, seconds_in_turns

OUT = Path(__file__).resolve().parents[2] / "results" / "throughput.json"
BATCH_SIZES = (1, 32)
ROUNDS, SECONDS = 5, 0.3

TWINS = ("ghost_resnet50", "ghost_resnet50_s2")
"""Two names of one network: what tells them apart is the measurement's error."""

MOST = 1.1
"""Rates of the twins that are further apart than by this factor are refused."""


def network_calls(names: Iterable[str]) -> dict[tuple[str, int], Callable[[], object]]:
    """Return (model, images of a batch) -> a call of the network."""
    random, calls = np.random.RandomState(0), {}
    for name in names:
        config = registry.get_pretrained_cfg(name)
        shape = tuple(config.get("input_size", (3, 224, 224)))
        network = mindcv_ghost.create_model(name, num_classes=config["num_classes"])
        for size, call in evaluations(network, shape, BATCH_SIZES, random).items():
            calls[name, size] = call
        print(f"{name}: prepared", flush=True)
    return calls


def measured_rows(names: Iterable[str]) -> list[dict]:
    """Return for each model the images a second, and the relative range over the rounds.

    Raises:
        UserError: if the two names of one network differ by more than a tenth.
    """
    rows: dict[str, dict] = {}
    for (name, size), seconds in seconds_in_turns(network_calls(names), ROUNDS, SECONDS).items():
        median = statistics.median(seconds)
        row = rows.setdefault(name, {"model": name, "images_per_second": {}, "spread": {}})
        row["images_per_second"][str(size)] = float(f"{size / median:.4g}")
        row["spread"][str(size)] = round((max(seconds) - min(seconds)) / median, 3)
    _check_twins(rows)
    return list(rows.values())


def _check_twins(rows: dict[str, dict]) -> None:
    if not rows.keys() >= set(TWINS):
        return
    for size in map(str, BATCH_SIZES):
        low, high = sorted(rows[name]["images_per_second"][size] for name in TWINS)
        if high > MOST * low:
            raise UserError(
                f"{TWINS[0]} and {TWINS[1]} are one network, but have {low:g} and {high:g} "
                f"images/s (batch {size}): the machine is too busy to measure. Nothing was "
                "recorded; try again when it is idle."
            )


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Time the models and write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure.time_models")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="by default the whole zoo")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file (%(default)s)")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.models if name not in zoo()]
    if unknown:
        raise UserError(f"no such model in the zoo: {', '.join(unknown)}")
    if arguments.models and arguments.out == OUT:
        raise UserError(f"{OUT.name} has the whole zoo: give another file with --out, too")
    commit = repeatable_commit()
    compat.set_up("CPU", 0, ms.GRAPH_MODE, None)
    result = {
        "kind": "throughput",
        "command": "python -m tools.measure.time_models",
        "batch_sizes": list(BATCH_SIZES),
        "rounds": ROUNDS,
        "hardware": describe_hardware(),
        "versions": compat.installed_versions(),
        "commit": commit,
        "date": utc_now(),
        "models": measured_rows(arguments.models or zoo()),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    for row in result["models"]:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
