"""What is left of the bare step's speed in a whole training from JPEGs, and in MindCV's?

1. Our train.py on a folder of JPEGs against its own step (forward, backward, momentum) on one batch
   that stays in memory: what reading, decoding, logging and checkpoints cost.
2. Our train.py against MindCV 0.3.0's with the same recipe. MindCV's wheel has no train.py: the
   rival is ``mindcv_train.py`` here, a stand-in that makes the script's calls of the installed
   MindCV, its StateMonitor and Model.train among them.

Images a second of an epoch after the first, so that neither start nor compilation counts; each in a
process of its own, in turn. Predicted: 0.95 of the bare step; 3 times MindCV's (0.25 against 0.75 s
a step of ResNet-50, batch 16, 64x64, because SummaryRecord's process polls on a core of its own).

    python benchmarks/train_loop.py [--rounds 3] [--model resnet50] [--side 64]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.photographs import write_photographs  # noqa: E402
from benchmarks.rows import alternate, print_row  # noqa: E402

CLASSES, IMAGES_A_CLASS, EPOCHS = 4, 80, 3


def recipe(folder: Path, model: str, batch: int, side: int) -> dict:
    """Values that both programs take."""
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
    }


def start(script: Path, recipe_file: Path, run: Path, *more: str) -> subprocess.CompletedProcess:
    """Run a script to its end."""
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
    """The recipe as a file in a run folder that is made here."""
    import yaml

    run.mkdir(parents=True)
    path = run / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, "ckpt_save_dir": str(run / "out")}))
    return path


def ours(values: dict, run: Path) -> float:
    """Images a second of our train.py: the median epoch after the first."""
    start(ROOT / "train.py", write_recipe(values, run), run, "--config")
    with open(run / "out" / "metrics.csv", newline="") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(speeds[1:])


def mindcv(values: dict, run: Path) -> float:
    """Images a second of the stand-in for MindCV's: StateMonitor writes each epoch's seconds."""
    start(ROOT / "benchmarks" / "mindcv_train.py", write_recipe(values, run), run)
    lines = (run / "out" / "result.log").read_text().splitlines()
    place = lines[0].split().index("TrainTime")
    seconds = statistics.median(float(line.split()[place]) for line in lines[2:])
    images = sum(1 for _ in Path(values["data_dir"]).rglob("*.jpg"))
    return images // values["batch_size"] * values["batch_size"] / seconds


def bare(values: dict) -> float:
    """Images a second of the same step in a process of its own, on a batch in memory."""
    argv = [values["model"], str(values["batch_size"]), str(values["image_resize"])]
    done = subprocess.run(
        [sys.executable, __file__, "--bare", *argv],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.strip().splitlines()[-1])


def measure_bare(model: str, batch: int, side: int) -> float:
    """The step as build.py puts it together, without what surrounds it."""
    import mindcv
    import mindspore as ms
    import numpy as np

    import mindcv_ghost  # noqa: F401
    from mindcv_ghost import compat
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep

    compat.set_up("CPU", 0, None)
    network = mindcv.create_model(model, num_classes=CLASSES)
    settings = OptimizerSettings(
        "momentum", momentum=0.9, weight_decay=1e-4, weight_decay_filter="norm_and_bias"
    )
    loss = mindcv.create_loss("CE", label_smoothing=0.1)
    optimizer = create_optimizer(network, settings, [0.01] * 1000, "CPU")
    step = TrainStep(NetworkWithLoss(network, loss, exact=True), optimizer)
    step.set_train()
    draw = np.random.default_rng(0)
    image = ms.Tensor(draw.normal(size=(batch, 3, side, side)).astype(np.float32))
    label = ms.Tensor(draw.integers(0, CLASSES, batch).astype(np.int32))
    seconds = []
    for _ in range(25):
        started = time.perf_counter()
        loss, outcome = step(image, label)
        loss.asnumpy(), outcome.asnumpy()
        seconds.append(time.perf_counter() - started)
    return batch / statistics.mean(seconds[5:])


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--images", type=int, default=IMAGES_A_CLASS, help="of each class")
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(measure_bare(args.bare[0], *map(int, args.bare[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_photographs(folder / "data" / "train", CLASSES, args.images)
        values = recipe(folder, args.model, args.batch, args.side)
        count = iter(range(1000))
        medians = alternate(
            {
                "ours": lambda: ours(values, folder / f"run{next(count)}"),
                "bare": lambda: bare(values),
                "mindcv": lambda: mindcv(values, folder / f"run{next(count)}"),
            },
            args.rounds,
        )
    case = f"{args.model}, batch {args.batch}, {args.side}x{args.side}, JPEGs of 90 kB"
    for rival, name, goal in (
        ("the bare step on a batch in memory", "bare", ">= 0.93"),
        ("MindCV 0.3's train.py (stand-in)", "mindcv", ">= 3"),
    ):
        value, other = medians["ours"], medians[name]
        print_row("Whole train.py", case, value, "images/s", rival, other, value / other, goal)


if __name__ == "__main__":
    main()
