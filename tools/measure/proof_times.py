"""Measure a batch of the networks of docs/proof.md: results/proof/times.json."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")

from mindcv_ghost import compat
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import source_commit, utc_now
from tools.measure.proof_list import DATA_SETS, ROWS, Experiment

__all__ = ["measure"]

BATCH_SIZES = (1, 32)
ROUNDS, SECONDS, WARM_UP = 5, 0.1, 3


def measure(out: Path, rounds: int = ROUNDS) -> int:
    """Time an evaluated batch of each network, in turns; return the exit status.

    Args:
        out: folder of the records; ``times.json`` in it is replaced.
        rounds: how often each network's turn comes.
    """
    import mindspore as ms

    compat.set_up("CPU", 0, ms.GRAPH_MODE, None)
    cases = _cases()
    found: dict[tuple[str, str, int], list[float]] = {key: [] for key in cases}
    for _ in range(rounds):
        for key, call in cases.items():
            found[key].append(_milliseconds(call))
    times: dict[str, Any] = {}
    for (data, row, batch), values in found.items():
        place = times.setdefault(data, {}).setdefault(row, {})
        place[str(batch)] = float(f"{statistics.median(values):.4g}")
    result = {
        "kind": "proof_times",
        "command": "python -m tools.measure.proof --times",
        "batch_sizes": list(BATCH_SIZES),
        **{"hardware": describe_hardware(), "versions": compat.installed_versions()},
        **{"commit": source_commit(), "date": utc_now()},
        "milliseconds": times,
    }
    write_text(out / "times.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(times, indent=1))
    return 0


def _cases() -> dict[tuple[str, str, int], Any]:
    """Return (data, row, images of a batch) -> a call that evaluates a batch."""
    import mindspore as ms
    import numpy as np

    import mindcv_ghost
    from tools.measure.proof import RECIPES, build

    random, cases = np.random.RandomState(0), {}
    for data in DATA_SETS:
        for row in (name for name, row in ROWS.items() if row.is_a_network):
            recipe = RECIPES / Experiment(data, row, 0).recipe
            network, shape = build(["--config", str(recipe)])
            mindcv_ghost.accelerate(network.set_train(False))
            for size in BATCH_SIZES:
                images = ms.Tensor(random.standard_normal((size, *shape)).astype(np.float32))
                call = _call(network, images)
                for _ in range(WARM_UP):
                    call()
                cases[data, row, size] = call
    return cases


def _call(network: Any, images: Any) -> Any:
    return lambda: network(images).asnumpy()


def _milliseconds(call: Any) -> float:
    """Return the median of the calls of a tenth of a second."""
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)
