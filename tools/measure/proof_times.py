"""Time the networks of docs/proof.md, in training and evaluation: results/proof/times_DATA.json."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")

from mindcv_ghost import compat
from mindcv_ghost.config import load_config
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from mindcv_ghost.weights.finding import Published, list_shipped
from tools.measure.commits import repeatable_commit
from tools.measure.proof_list import IMAGES, Experiment, rows_of
from tools.measure.turns import evaluations, seconds_in_turns

__all__ = ["measure"]

Calls = dict[Any, Callable[[], object]]
BATCH_SIZES = (1, 32)
STEP_IMAGES = 128  # of a training step, as in the recipes
ROUNDS, SECONDS = 5, 0.1
STEP_SECONDS = 1.0  # a step is longer, and the first one of a turn isn't counted


def measure(out: Path, data: str) -> None:
    """Time an evaluated batch and a training step of each network, in turns.

    Args:
        out: folder of the records; ``times_DATA.json`` in it is replaced.
        data: the data set, a key of ``DATA_SETS``.
    """
    import mindspore as ms

    commit = repeatable_commit()
    out.mkdir(parents=True, exist_ok=True)
    compat.set_up("CPU", 0, ms.GRAPH_MODE, None)
    times: dict[str, Any] = {}
    for (row, batch), values in seconds_in_turns(_batches(data), ROUNDS, SECONDS).items():
        times.setdefault(row, {})[str(batch)] = _milliseconds(values)
    result = {
        "kind": "proof_times",
        "data": data,
        "command": f"python -m tools.measure.proof --times --data {data}",
        "batch_sizes": list(BATCH_SIZES),
        "step_images": STEP_IMAGES,
        **{"hardware": describe_hardware(), "versions": compat.installed_versions()},
        **{"commit": commit, "date": utc_now()},
        "milliseconds": times,
        "step_milliseconds": {
            row: _milliseconds(values)
            for row, values in seconds_in_turns(_steps(data), ROUNDS, STEP_SECONDS).items()
        },
    }
    write_text(out / f"times_{data}.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _milliseconds(values: list[float]) -> float:
    return float(f"{1e3 * statistics.median(values):.4g}")


def _batches(data: str) -> Calls:
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


def _steps(data: str) -> Calls:
    """Return row -> a call that trains a step as train.py does."""
    import mindspore as ms
    import numpy as np

    from mindcv_ghost.engine.collectives import Collectives
    from mindcv_ghost.launch.world import World
    from mindcv_ghost.run.learner import create_learner
    from mindcv_ghost.run.teacher import load_teacher, prepare_teacher
    from tools.measure.proof import RECIPES, build

    random, world, collectives = np.random.RandomState(0), World(), Collectives(0, 1)
    calls: Calls = {}
    for name, row in rows_of(data).items():
        experiment = Experiment(data, name, 0)
        if not row.is_compared:
            continue
        words = ["--config", str(RECIPES / experiment.recipe)]
        if experiment.parent is not None:
            words += ["--teacher_ckpt", str(_published(experiment.parent).weights)]
        config = load_config(words)
        classes = config.model.num_classes
        loaded, teacher = load_teacher(config, classes, collectives), None
        if loaded is not None:
            teacher, _ = prepare_teacher(loaded, config, world, "CPU", classes, collectives)
        network, shape = build(words)
        steps = IMAGES[data][0] // STEP_IMAGES
        learner = create_learner(config, world, "CPU", network, collectives, steps, teacher)
        images = random.standard_normal((STEP_IMAGES, *shape)).astype(np.float32)
        labels = random.randint(0, classes, STEP_IMAGES).astype(np.int32)
        calls[name] = _step(learner.step.set_train(), ms.Tensor(images), ms.Tensor(labels))
    return calls


def _published(experiment: Experiment) -> Published:
    """Return the weights of a recipe that come with this package: any will do for the time."""
    for published in list_shipped():
        if published.card.training["recipe"] == experiment.recipe:
            return published
    raise ReportError(f"no weights of {experiment.recipe} come with this package")


def _step(step: Any, images: Any, labels: Any) -> Callable[[], object]:
    return lambda: step(images, labels)[0].asnumpy()
