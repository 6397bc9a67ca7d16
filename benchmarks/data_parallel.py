"""Two ranks of a core each against one rank with both cores, the same global batch of 64.

`mpirun -n 2`, batch 32 a rank, 128x128, gradients averaged over the ranks, against one process,
batch 64, two threads. Both run the training step on data in memory; the all-reduce of the gradients
alone is measured as well, for the model of scaling. Bound to cores, in turn. Predicted: 0.85 (an
all-reduce of 56 MB takes 0.18 s, a step 1.2 s and more).

    python benchmarks/data_parallel.py [--rounds 3] [--model ghost_resnet50] [--side 128]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BIN = Path(sys.executable).parent

from benchmarks.rows import alternate, print_row  # noqa: E402

GLOBAL_BATCH, WARM_UP, STEPS = 64, 3, 8


def rank(argv: list[str]) -> int:
    """What each rank runs; rank 0 prints the median step and the median all-reduce."""
    from mindcv_ghost.cluster import join
    from mindcv_ghost.launch import detect

    world = detect(os.environ)
    if world.size > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {world.rank % (os.cpu_count() or 1)})
    import mindcv
    import mindspore as ms
    import numpy as np
    from mindspore import nn

    import mindcv_ghost  # noqa: F401
    from mindcv_ghost import compat
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep

    compat.set_up("CPU", 0, None)
    model, side = argv[0], int(argv[1])
    with join(world, "CPU"):
        ms.set_seed(1)
        network = mindcv.create_model(model, num_classes=100)
        settings = OptimizerSettings("momentum", momentum=0.9)
        optimizer = create_optimizer(network, settings, [0.001] * 100, "CPU")
        loss = NetworkWithLoss(network, mindcv.create_loss("CE"))
        step = TrainStep(loss, optimizer, ranks=world.size)
        step.set_train()
        draw = np.random.default_rng(world.rank)
        rows = GLOBAL_BATCH // world.size
        image = ms.Tensor(draw.normal(size=(rows, 3, side, side)).astype(np.float32))
        label = ms.Tensor(draw.integers(0, 100, rows).astype(np.int32))
        seconds = [clocked(lambda: step(image, label)[0].asnumpy()) for _ in range(STEPS + WARM_UP)]
        reduced = 0.0
        if world.size > 1:

            class Reduce(nn.Cell):
                def __init__(self) -> None:
                    super().__init__()
                    self.reduce = step.updater.reducer

                def construct(self, gradients):
                    return self.reduce(gradients)

            reduce = Reduce()
            gradients = tuple(ms.Tensor(np.ones(w.shape, np.float32)) for w in step.weights)
            all_reduce = [clocked(lambda: reduce(gradients)[-1].asnumpy()) for _ in range(8)]
            reduced = statistics.median(all_reduce[3:])
        if world.rank == 0:
            answer = {"step": statistics.median(seconds[WARM_UP:]), "all_reduce": reduced}
            answer["numbers"] = sum(int(w.size) for w in step.weights)
            print(f"answer {json.dumps(answer)}", flush=True)
    return 0


def clocked(call) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(ranks: int, model: str, side: int, seen: list[dict]) -> float:
    """Start the ranks; the seconds of a step. What rank 0 said is added to ``seen``."""
    environ = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )
    command = [sys.executable, __file__, "--rank", model, str(side)]
    if ranks > 1:
        command = [str(BIN / "mpirun"), "--oversubscribe", "-n", str(ranks), *command]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    if not lines:
        raise SystemExit(f"{ranks} ranks failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    seen.append(json.loads(lines[0].split(" ", 1)[1]))
    return seen[-1]["step"]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="ghost_resnet50")
    parser.add_argument("--side", type=int, default=128)
    args = parser.parse_args()
    two: list[dict] = []
    medians = alternate(
        {
            "two": lambda: measure(2, args.model, args.side, two),
            "one": lambda: measure(1, args.model, args.side, []),
        },
        args.rounds,
    )
    speeds = {name: GLOBAL_BATCH / seconds for name, seconds in medians.items()}
    case = f"{args.model}, global batch {GLOBAL_BATCH}, {args.side}x{args.side}"
    print_row(
        *("Data parallel", f"{case}, 2 ranks of a core", speeds["two"], "images/s"),
        *("1 rank with both cores", speeds["one"], speeds["two"] / speeds["one"], ">= 0.85"),
    )
    reduced = statistics.median(each["all_reduce"] for each in two)
    millions = two[0]["numbers"] / 1e6
    print_row("Data parallel", f"all-reduce of {millions:.2f} M float32, 2 ranks", reduced, "s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        from mindcv_ghost.cluster import run_script

        sys.exit(run_script(rank, sys.argv[2:]))
    main()
