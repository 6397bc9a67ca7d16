"""Compare ghostify's fitted initialisation (init="fit") with a random one, after fine-tuning.

Trains MindCV's ResNet-18 on scikit-learn's handwritten digits. Then replaces all its convolutions
but the stem's by Ghost modules, once with random and once with fitted weights; the stem and the
classifier keep their trained weights. Both networks are fine-tuned with the same images in the same
order and the same learning rates. There are three seeds. Each part (seed and network) is a process
of its own, and parts that exist already aren't run again.

    python benchmarks/ghostify_digits.py

Writes ``results/ghostify_digits.json`` and ``.csv`` and draws ``docs/ghostify_digits.png``.

Predicted, after a trial with one seed: the fitted network starts above 90 % top-1. The random one
starts at 10 %, as by guessing, and is still behind after three epochs. docs/ghostify.md has the
results.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
INITS = ("random", "fit")
MODEL, RATIO, CHEAP_KERNEL_SIZE = "resnet18", 2, 3
SIDE, BATCH, CALIBRATION_IMAGES = 40, 32, 256
TRAINING = {"epochs": 4, "lr": 0.02}
FINE_TUNING = {"epochs": 3, "lr": 0.01}
SHIFT = 3  # largest random shift of an image in either direction, in pixels


def load_digits(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Return normalised images (N, 3, SIDE, SIDE) and labels (N,) of "train" and "val"."""
    import numpy as np
    from PIL import Image

    from mindcv_ghost.data.sets.digits import write_digits

    place, digits = Path(write_digits(str(folder))), {}
    for split in ("train", "val"):
        files = sorted((place / split).glob("*/*.png"))
        scans = [
            Image.open(file).convert("L").resize((SIDE, SIDE), Image.BICUBIC) for file in files
        ]
        images = np.stack([np.asarray(scan, np.float32) for scan in scans])[:, None] / 255
        labels = np.array([int(file.parent.name) for file in files], np.int32)
        digits[split] = np.repeat((images - 0.3) / 0.37, 3, axis=1), labels
    return digits


def shifted(images: Any, rng: Any) -> Any:
    """Return the images, each shifted at random."""
    import numpy as np

    padded = np.pad(images, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
    corners = rng.integers(0, 2 * SHIFT + 1, (len(images), 2))
    pairs = zip(padded, corners)
    return np.stack([image[:, y : y + SIDE, x : x + SIDE] for image, (y, x) in pairs])


def top1(network: Any, images: Any, labels: Any) -> float:
    """Return the accuracy in percent."""
    import mindspore as ms

    network.set_train(False)
    right = 0
    for start in range(0, len(images), 60):  # 360 in all: one shape, one graph
        logits = network(ms.Tensor(images[start : start + 60])).asnumpy()
        right += int((logits.argmax(axis=1) == labels[start : start + 60]).sum())
    return 100 * right / len(images)


def train(network: Any, digits: dict, epochs: int, lr: float, seed: int) -> list[float]:
    """Train with momentum, an epoch of warm-up and cosine decay; return top-1 by epoch, from 0."""
    import mindcv
    import mindspore as ms
    import numpy as np

    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep

    images, labels = digits["train"]
    rng, steps = np.random.default_rng(seed), len(images) // BATCH
    time_ = np.arange(steps * epochs)
    decay = 0.5 * (1 + np.cos(np.pi * (time_ - steps) / (steps * (epochs - 1))))
    rates = lr * np.where(time_ < steps, (time_ + 1) / steps, decay)
    settings = OptimizerSettings("momentum", weight_decay=1e-4)
    optimizer = create_optimizer(network, settings, rates.tolist(), "CPU")
    step = TrainStep(NetworkWithLoss(network, mindcv.create_loss("CE")), optimizer)
    curve = [top1(network, *digits["val"])]
    for epoch in range(epochs):
        step.set_train()
        order, started, losses = rng.permutation(len(images)), time.perf_counter(), []
        for number in range(steps):
            batch = order[number * BATCH : (number + 1) * BATCH]
            loss, *_ = step(ms.Tensor(shifted(images[batch], rng)), ms.Tensor(labels[batch]))
            losses.append(float(loss.asnumpy()))
        curve.append(top1(network, *digits["val"]))
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}: loss {statistics.mean(losses):.4f}, top-1 {curve[-1]:.2f} %, "
              f"{seconds:.0f} s", flush=True)  # fmt: skip
    return curve


def run_part(part: str, seed: int, work: Path) -> dict[str, Any]:
    """Train the network ("base"), or fine-tune the ghostified one ("random", "fit")."""
    import mindcv
    import mindspore as ms
    import numpy as np

    from mindcv_ghost.analysis.complexity import count_macs
    from mindcv_ghost.compat import installed_versions
    from mindcv_ghost.report.hardware import describe_hardware
    from mindcv_ghost.storage.provenance import source_commit, utc_now
    from mindcv_ghost.surgery import ghostify

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_context(jit_config={"jit_level": "O0"})
    ms.set_seed(seed)
    result = {"part": part, "seed": seed, "versions": installed_versions(), "date": utc_now()}
    result |= {"commit": source_commit(), "hardware": describe_hardware()}
    digits, checkpoint = load_digits(work), work / f"seed{seed}_base.ckpt"
    network = mindcv.create_model(MODEL, num_classes=10)
    plan = TRAINING
    if part == "base":
        cost = count_macs(network, (1, 3, SIDE, SIDE))
    else:
        plan = FINE_TUNING
        ms.load_param_into_net(network, ms.load_checkpoint(str(checkpoint)), strict_load=True)
        rng = np.random.default_rng(seed)
        images = digits["train"][0]
        chosen = rng.choice(len(images), CALIBRATION_IMAGES, replace=False)
        started = time.perf_counter()
        network, report = ghostify(
            network,
            RATIO,
            CHEAP_KERNEL_SIZE,
            init=part,
            calibration=[shifted(images[chosen], rng)],
            image_size=SIDE,
        )
        result["ghostify_seconds"] = round(time.perf_counter() - started, 1)
        cost = report.after
    result |= {"parameters": cost.parameters, "macs": cost.macs}
    result["top1"] = train(network, digits, seed=seed, **plan)
    if part == "base":
        ms.save_checkpoint(network, str(checkpoint))
    return result


def collect(parts: list[dict[str, Any]]) -> None:
    """Write the result, its CSV and its picture."""
    commits = sorted({part["commit"] for part in parts})
    if len(commits) != 1 or commits[0].endswith("-dirty"):
        raise SystemExit(f"parts of commits {', '.join(commits)}: remove --work's and run again")
    facts = ("versions", "hardware", "commit")
    result = {
        "kind": "ghostify_digits",
        **{name: parts[0][name] for name in facts},
        "date": max(part["date"] for part in parts),
        **{"model": MODEL, "ratio": RATIO, "cheap_kernel_size": CHEAP_KERNEL_SIZE},
        **{"image_size": SIDE, "batch_size": BATCH, "calibration_images": CALIBRATION_IMAGES},
        **{"training": TRAINING, "fine_tuning": FINE_TUNING},
        "parts": [{k: v for k, v in part.items() if k not in facts} for part in parts],
    }
    (ROOT / "results" / "ghostify_digits.json").write_text(json.dumps(result, indent=2) + "\n")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("init", "seed", "epoch", "top1"))
    for part in parts:
        rows = enumerate(part["top1"])
        writer.writerows((part["part"], part["seed"], epoch, f"{v:.4f}") for epoch, v in rows)
    (ROOT / "results" / "ghostify_digits.csv").write_text(out.getvalue())
    draw(result, str(ROOT / "docs" / "ghostify_digits.png"))


def draw(result: dict[str, Any], png: str) -> None:
    """Draw top-1 against the epoch: means as lines, single seeds as points."""
    from mindcv_ghost.report.plots import BLUE, GREY, ORANGE, new_figure, save_png

    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    curves = {part: [p["top1"] for p in result["parts"] if p["part"] == part] for part in
              ("base", *INITS)}  # fmt: skip
    base = statistics.mean(curve[-1] for curve in curves["base"])
    axes.axhline(base, color=GREY, linestyle=":", label=f"{MODEL}, as trained: {base:.1f} %")
    for init, colour, style in (("fit", BLUE, "o-"), ("random", ORANGE, "s--")):
        epochs = range(len(curves[init][0]))
        means = [statistics.mean(values) for values in zip(*curves[init])]
        axes.plot(epochs, means, style, color=colour, label=f'Ghost modules, init="{init}"')
        for curve in curves[init]:
            axes.plot(epochs, curve, style[0], color=colour, alpha=0.35, markersize=4)
    axes.set(xlabel="epochs after ghostify", ylabel="top-1 of the 360 held-out digits (%)")
    axes.set(xticks=list(range(len(means))), ylim=(0, 103))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_png(figure, png)


def main() -> None:
    """Run the missing parts and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ghostify_digits"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        result = run_part(arguments.part, arguments.seed, arguments.work)
        out = arguments.work / f"seed{arguments.seed}_{arguments.part}.json"
        out.write_text(json.dumps(result, indent=2) + "\n")
        sys.stdout.flush()
        os._exit(0)  # MindSpore 2.8 prints pages of errors when a run of cells is torn down
    parts = []
    for seed in SEEDS:
        for part in ("base", *INITS):
            out = arguments.work / f"seed{seed}_{part}.json"
            if not out.is_file():
                print(f"seed {seed}, {part}", flush=True)
                command = [sys.executable, __file__, "--work", str(arguments.work)]
                subprocess.run([*command, "--part", part, "--seed", str(seed)], check=True)
            parts.append(json.loads(out.read_text()))
    collect(parts)


if __name__ == "__main__":
    main()
