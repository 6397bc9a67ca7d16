"""Measure a batch of the networks of docs/proof.md: results/proof/times_DATA.json."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")

from mindcv_ghost import compat
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from tools.measure.commits import repeatable_commit
from tools.measure.proof_list import Experiment, rows_of
from tools.measure.turns import evaluations, seconds_in_turns

__all__ = ["measure"]

BATCH_SIZES = (1, 32)
ROUNDS, SECONDS = 5, 0.1


def measure(out: Path, data: str) -> None:
    """Time an evaluated batch of each network, in turns.

    Args:
        out: folder of the records; ``times_DATA.json`` in it is replaced.
        data: the data set, a key of ``DATA_SETS``.
    """
    import mindspore as ms

    commit = repeatable_commit()
    compat.set_up("CPU", 0, ms.GRAPH_MODE, None)
    times: dict[str, Any] = {}
    for (row, batch), values in seconds_in_turns(_cases(data), ROUNDS, SECONDS).items():
        times.setdefault(row, {})[str(batch)] = float(f"{1e3 * statistics.median(values):.4g}")
    result = {
        "kind": "proof_times",
        "data": data,
        "command": f"python -m tools.measure.proof --times --data {data}",
        "batch_sizes": list(BATCH_SIZES),
        **{"hardware": describe_hardware(), "versions": compat.installed_versions()},
        **{"commit": commit, "date": utc_now()},
        "milliseconds": times,
    }
    write_text(out / f"times_{data}.json", json.dumps(result, indent=1) + "\n")
    print(data, json.dumps(times, indent=1))


def _cases(data: str) -> dict[tuple[str, int], Callable[[], object]]:
    """Return (row, images of a batch) -> a call that evaluates a batch."""
    import numpy as np

    from tools.measure.proof import RECIPES, build

    random, cases = np.random.RandomState(0), {}
    for row in (name for name, row in rows_of(data).items() if row.is_a_network):
        recipe = RECIPES / Experiment(data, row, 0).recipe
        network, shape = build(["--config", str(recipe)])
        for size, call in evaluations(network, shape, BATCH_SIZES, random).items():
            cases[row, size] = call
    return cases
