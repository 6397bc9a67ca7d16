"""A training step on the CPU at jit_level O0, compared with MindSpore's default level.

The step is this project's, with a list of learning rates and momentum, of MindCV's ResNet-50. Each
measurement is a process of its own, and the levels take turns.

    python benchmarks/jit_level.py [--pairs 5] [--steps 8]

Predicted: the default level takes about 1.6 times as long; with MindCV's own trainer a step had
taken 0.40 s instead of 0.245 s (MindSpore 2.8.0, 2 cores). docs/performance.md has the results.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import TimeBudget, fail_if_left_out, medians_of_rounds, print_row  # noqa: E402

os.environ.setdefault("GLOG_v", "3")


def measure(level: str, steps: int) -> float:
    """Return the median seconds of a training step at a level; ``default`` is MindSpore's own."""
    import mindcv
    import mindspore as ms
    import numpy as np

    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    if level != "default":
        ms.set_context(jit_config={"jit_level": level})
    ms.set_seed(1)
    network = mindcv.create_model("resnet50", num_classes=10)
    settings = OptimizerSettings("momentum", weight_decay=1e-4)
    optimizer = create_optimizer(network, settings, [0.01] * 1000, "CPU")
    step = TrainStep(NetworkWithLoss(network, mindcv.create_loss("CE")), optimizer)
    step.set_train()
    rng = np.random.default_rng(0)
    image = ms.Tensor(rng.normal(size=(16, 3, 64, 64)).astype(np.float32))
    label = ms.Tensor(rng.integers(0, 10, 16).astype(np.int32))
    seconds = []
    for _ in range(steps + 3):
        started = time.perf_counter()
        step(image, label)[0].asnumpy()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


def main() -> None:
    """Measure in turn; print a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--level", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.level:
        print(measure(arguments.level, arguments.steps))
        return

    def in_a_process(level: str) -> float:
        command = [sys.executable, __file__, "--level", level, "--steps", str(arguments.steps)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return float(out.strip().splitlines()[-1])

    levels = ("O0", "default")
    measures = {level: functools.partial(in_a_process, level) for level in levels}
    medians = medians_of_rounds(measures, arguments.pairs, TimeBudget())
    fail_if_left_out(level for level in levels if level not in medians)
    fast, slow = medians["O0"], medians["default"]
    case = "MindCV's ResNet-50 by our step, batch 16, 64x64, at O0"
    print_row("jit_level", case, fast, "s/step", "MindSpore's default level", slow, slow / fast)


if __name__ == "__main__":
    main()
