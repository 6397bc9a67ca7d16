"""Images/s of a whole train.py, compared with its bare step and with MindCV's train.py.

1. Our train.py on a folder of JPEGs, compared with its own step on one batch that stays in memory:
   the difference is the cost of reading, decoding, logging and checkpoints. Ghost-ResNet-50.
2. The same for a small network on CIFAR-10's format, whose images of 32x32 lie decoded in memory:
   ghost_resnet20_cifar, batch 128. Its step is short, so what the loop costs shows.
3. Our train.py, compared with MindCV 0.3.0's with the same recipe. MindCV's ResNet-50. MindCV's
   wheel has no train.py: ``mindcv_train.py`` replaces it. It makes the same calls of the installed
   MindCV, including StateMonitor and Model.train.

The epoch after the first counts, so that neither start nor compilation does. Each program is a
process of its own; they are measured in turn.

Predicted: 0.95 of the bare step on JPEGs; 0.98 from memory (a batch takes the loader 1 ms of a
core, the loop 0.3 ms, of a step of 55 ms and more on two cores); 3 times MindCV's (a step of
ResNet-50, batch 16, 64x64, takes 0.25 instead of 0.75 s, because SummaryRecord's process polls and
needs a core).

    python benchmarks/train_loop.py [--rounds 2]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("GLOG_v", "3")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.harness import (  # noqa: E402
    TimeBudget,
    fail_if_left_out,
    medians_of_rounds,
    print_row,
    scratch_folder,
)
from benchmarks.photographs import write_photographs  # noqa: E402

CLASSES, IMAGES_A_CLASS, EPOCHS = 4, 64, 2
CIFAR_STEPS = 24  # an epoch
WARM_UP, STEPS = 4, 10


def recipe(folder: Path, model: str, batch: int, side: int, more: dict) -> dict:
    """Return the recipe for both programs, with ``more`` keys."""
    return {
        "model": model,
        "data_dir": str(folder / "data"),
        "num_classes": CLASSES,
        "image_resize": side,
        "scale": [0.08, 1.0],
        "hflip": 0.5,
        "color_jitter": None,
        "batch_size": batch,
        "epoch_size": EPOCHS,
        "num_parallel_workers": os.cpu_count() or 1,
        "opt": "momentum",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "weight_decay_filter": "norm_and_bias",
        "scheduler": "cosine_decay",
        "lr": 0.01,
        "min_lr": 0.0,
        "warmup_epochs": 1,
        "decay_epochs": EPOCHS - 1,
        "label_smoothing": 0.1,
        "seed": 42,
        "log_interval": 10,
        **more,
    }


def write_cifar10(folder: Path, images: int) -> dict:
    """Write random images as CIFAR-10's files; return the recipe's keys for an epoch of some."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 256, (10_000, 1 + 3 * 32 * 32), np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)
    keys = {"dataset": "cifar10", "data_dir": str(folder), "num_classes": 10, "log_interval": 100}
    return {**keys, "num_samples": images}


def start(script: Path, recipe_file: Path, run: Path, *more: str) -> subprocess.CompletedProcess:
    """Run a script until it ends."""
    environ = dict(os.environ, PYTHONPATH=str(ROOT), GLOG_v="3")
    done = subprocess.run(
        [sys.executable, script, *more, str(recipe_file)],
        cwd=run,
        env=environ,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{script.name} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def write_recipe(values: dict, run: Path) -> Path:
    """Create a run folder; write the recipe into it and return its path."""
    import yaml

    run.mkdir(parents=True)
    path = run / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, "ckpt_save_dir": str(run / "out")}))
    return path


def ours(values: dict, run: Path) -> float:
    """Return the images/s of our train.py in the epochs after the first."""
    start(ROOT / "train.py", write_recipe(values, run), run, "--config")
    with open(run / "out" / "metrics.csv", newline="") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(speeds[1:])


def mindcv(values: dict, run: Path) -> float:
    """Return the images/s of MindCV's training; StateMonitor writes each epoch's seconds."""
    start(ROOT / "benchmarks" / "mindcv_train.py", write_recipe(values, run), run)
    lines = (run / "out" / "result.log").read_text().splitlines()
    place = lines[0].split().index("TrainTime")
    seconds = statistics.median(float(line.split()[place]) for line in lines[2:])
    images = sum(1 for _ in Path(values["data_dir"]).rglob("*.jpg"))
    return images // values["batch_size"] * values["batch_size"] / seconds


def bare(values: dict, run: Path) -> float:
    """Return the images/s of the same step on a batch in memory, in a process of its own."""
    out = start(Path(__file__), write_recipe(values, run), run, "--bare").stdout
    return float(out.strip().splitlines()[-1])


def measure_bare(recipe_file: str) -> float:
    """Build a training as train.py does; return the images/s of its step on the first batch."""
    from mindcv_ghost.config import load_config
    from mindcv_ghost.launch.world import detect
    from mindcv_ghost.run.session import open_session
    from mindcv_ghost.run.training import create_training

    config, world = load_config(["--config", recipe_file], script="train"), detect(os.environ)
    with open_session(config, world, writes=True) as session:
        trainer = create_training(config, world, session).trainer
        batches = iter(trainer.batches.epoch(0))
        inputs = next(batches)
        batches.close()
        trainer.step.set_train()
        seconds = []
        for _ in range(WARM_UP + STEPS):
            trainer.step.set_updates_done(0)  # the schedule may be shorter
            started = time.perf_counter()
            for result in trainer.step(*inputs):
                result.asnumpy()
            seconds.append(time.perf_counter() - started)
    return config.dataset.batch_size / statistics.mean(seconds[WARM_UP:])


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument(
        "--small", action="store_true", help="only try whether it works; takes a minute"
    )
    args = parser.parse_args()
    if args.bare:
        print(measure_bare(args.bare))
        return
    ghost, small = ("ghost_resnet50", 32, 128), ("ghost_resnet20_cifar", 128, 32)
    resnet = ("resnet50", 16, 64)
    if args.small:
        ghost = resnet = ("mobilenet_v2_035_224", 16, 32)
    with scratch_folder() as folder:
        write_photographs(folder / "data" / "train", CLASSES, 8 if args.small else IMAGES_A_CLASS)
        cifar10 = write_cifar10(folder / "cifar10", small[1] * (2 if args.small else CIFAR_STEPS))
        runs = (folder / f"run{number}" for number in itertools.count())
        files, in_memory = "from JPEGs of 90 kB", "from CIFAR-10's format in memory"
        step = "the bare step on a batch in memory"
        comparisons = (
            (bare, ghost, {}, files, step, ">= 0.93"),
            (bare, small, cifar10, in_memory, step, ">= 0.93"),
            (mindcv, resnet, {}, files, "MindCV 0.3's train.py (a stand-in)", ">= 3"),
        )
        budget, left_out = TimeBudget(), []
        for number, (program, network, more, source, rival, goal) in enumerate(comparisons):
            values = recipe(folder, *network, more)
            programs = {
                "ours": lambda values=values: ours(values, next(runs)),
                "rival": lambda values=values, program=program: program(values, next(runs)),
            }
            model, batch, side = network
            case = f"{model}, batch {batch}, {side}x{side}, {source}"
            medians = medians_of_rounds(programs, args.rounds, budget, len(comparisons) - number)
            if len(medians) < 2:
                left_out.append(f"{rival}, {model}")
                continue
            value, other = medians["ours"], medians["rival"]
            print_row("Whole train.py", case, value, "images/s", rival, other, value / other, goal)
        fail_if_left_out(left_out)


if __name__ == "__main__":
    main()
