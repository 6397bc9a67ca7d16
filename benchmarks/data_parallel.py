"""Two ranks with a core each, compared with one rank with both cores; the global batch is 64.

`mpirun -n 2` with batch 32 per rank, 128x128, gradients averaged over the ranks, is compared with
one process with batch 64 and two threads. Both run the training step on data in memory, built by
the same code as train.py's, bound to cores, in turn. The all-reduce of the gradients is measured on
its own as well, for the model of scaling.

Predicted: 1.0. Summing 56 MB in shared memory takes 0.01 s of a step of 1 s (it took 0.1 s by
MindSpore's all-reduce, a call for each tensor). Each rank updates all weights with one core, which
costs as much as the ranks save by not waiting for each other between two operators.

    python benchmarks/data_parallel.py [--rounds 3] [--model ghost_resnet50] [--side 128]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import (  # noqa: E402
    BIN,
    TimeBudget,
    fail_if_left_out,
    launcher_environ,
    medians_of_rounds,
    print_row,
    run_launcher,
    scratch_folder,
)
from benchmarks.photographs import write_photographs  # noqa: E402

GLOBAL_BATCH, WARM_UP, STEPS = 64, 3, 8


def rank(argv: list[str]) -> int:
    """Run one rank; rank 0 prints the median step and the median all-reduce."""
    from mindcv_ghost.config import load_config
    from mindcv_ghost.launch.world import detect

    config, world = load_config(argv, script="train"), detect(os.environ)
    if world.size > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {world.rank % (os.cpu_count() or 1)})
    import mindspore as ms
    import numpy as np
    from mindspore import nn

    from mindcv_ghost.run.session import open_session
    from mindcv_ghost.run.training import create_training

    class Reduce(nn.Cell):
        def __init__(self, reducer: nn.Cell) -> None:
            super().__init__()
            self.reducer = reducer

        def construct(self, gradients):
            return self.reducer(gradients)

    with open_session(config, world, writes=True) as session:
        trainer = create_training(config, world, session).trainer
        step, batches = trainer.step, iter(trainer.batches.epoch(0))
        inputs = next(batches)
        batches.close()
        step.set_train()
        seconds = []
        for _ in range(WARM_UP + STEPS):
            step.set_updates_done(0)  # the learning-rate schedule is shorter
            seconds.append(clocked(lambda: step(*inputs)[0].asnumpy()))
        answer = {"step": statistics.median(seconds[WARM_UP:]), "all_reduce": 0.0}
        answer["numbers"] = sum(int(w.size) for w in step.weights)
        if world.size > 1:
            reduce = Reduce(step.updater.reducer)
            gradients = tuple(ms.Tensor(np.ones(w.shape, np.float32)) for w in step.weights)
            waits = [clocked(lambda: reduce(gradients)[-1].asnumpy()) for _ in range(8)]
            answer["all_reduce"] = statistics.median(waits[WARM_UP:])
        if world.rank == 0:
            print(f"answer {json.dumps(answer)}", flush=True)
    return 0


def clocked(call) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(ranks: int, folder: Path, model: str, side: int, seen: list[dict]) -> float:
    """Start the ranks; return the seconds of a step. Rank 0's answer is appended to ``seen``."""
    command = [sys.executable, __file__, "--rank", "--model", model]
    command += ["--data_dir", str(folder / "data"), "--image_resize", str(side)]
    command += ["--batch_size", str(GLOBAL_BATCH // ranks), "--epoch_size", "1"]
    command += ["--opt", "momentum", "--scheduler", "constant", "--lr", "0.001"]
    command += ["--num_classes", "1000"]
    command += ["--warmup_epochs", "0", "--ckpt_save_dir", str(folder / f"run{len(seen)}_{ranks}")]
    if ranks > 1:
        command = [str(BIN / "mpirun"), "--oversubscribe", "-n", str(ranks), *command]
    done = run_launcher(command, env=launcher_environ(), cwd=folder)
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
    one: list[dict] = []
    with scratch_folder() as folder:
        write_photographs(folder / "data" / "train", 4, GLOBAL_BATCH // 4)
        medians = medians_of_rounds(
            {
                "two": lambda: measure(2, folder, args.model, args.side, two),
                "one": lambda: measure(1, folder, args.model, args.side, one),
            },
            args.rounds,
            TimeBudget(),
        )
    speeds = {name: GLOBAL_BATCH / seconds for name, seconds in medians.items()}
    case = f"{args.model}, global batch {GLOBAL_BATCH}, {args.side}x{args.side}"
    if len(speeds) == 2:
        print_row(
            *("Data parallel", f"{case}, 2 ranks of a core", speeds["two"], "images/s"),
            *("1 rank with both cores", speeds["one"], speeds["two"] / speeds["one"], ">= 0.96"),
        )
    if two:
        reduced = statistics.median(each["all_reduce"] for each in two)
        millions = two[0]["numbers"] / 1e6
        print_row("Data parallel", f"all-reduce of {millions:.2f} M float32, 2 ranks", reduced, "s")
    left_out = {"two": "2 ranks", "one": "1 rank with both cores"}
    fail_if_left_out(words for name, words in left_out.items() if name not in speeds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        from mindcv_ghost.launch.script import run_script

        sys.exit(run_script(rank, sys.argv[2:]))
    main()
