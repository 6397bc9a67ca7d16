"""A network on the CPU with native operators: how fast, against whom, in how much memory?

A process a measurement, the rivals in turn, those with a goal first, several rounds. Every row is
the median over the rounds of the ratio within a round, printed as one JSON object. Where the time
that `run_all.py` gives is too short, a process takes fewer steps, then rounds are left out, then
rivals.

    python benchmarks/train_step.py [--model ghost_resnet50] [--rounds 5] [--steps 8] [--batch 32]
                                    [--side 128]

Rivals: the same network on MindSpore's stock operators, the same network in PyTorch with
channels-last memory (for inference with BN folded into the convolutions where they follow each
other; networks but Ghost-ResNet-50 are timm's), and, for Ghost-ResNet-50, MindCV's resnet50.
Training is forward, backward and momentum; inference is the network in evaluation. The cache of
built operators should be warm: the first process builds them otherwise, before it measures.

Predicted: a step 2.8 times as fast as on stock operators, 1.5 times PyTorch, 1.9 times MindCV's
resnet50; inference 1.4 times PyTorch; 0.7 of the memory. Of ghostnetv2_100 at 224x224 a step twice
as fast as PyTorch's, and inference 1.2 times. For what came out see docs/performance.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import Allowance, in_turn, tell_left_out  # noqa: E402

WARM_UP, LEAST = 2, 2  # steps of a process that don't count; that count even if time is short

# case, rival, what is compared, least ratio (of the rival's value to ours) that is aimed at
ROWS = {
    "ghost_resnet50": (
        ("training", "stock", "seconds", 2.8),
        ("training", "torch", "seconds", 1.5),
        ("training", "mindcv", "seconds", 1.9),
        ("training", "stock", "processor", None),
        ("training", "torch", "processor", None),
        ("training", "mindcv", "processor", None),
        ("training", "stock", "megabytes", 1 / 0.7),
        ("inference", "stock", "seconds", None),
        ("inference", "torch", "seconds", 1.4),
        ("inference", "stock", "processor", None),
        ("inference", "torch", "processor", None),
    ),
    "ghost_resnet50_s4": (
        ("training", "stock", "seconds", None),
        ("training", "torch", "seconds", 1.2),
        ("training", "stock", "megabytes", None),
        ("inference", "stock", "seconds", None),
        ("inference", "torch", "seconds", None),
    ),
    "other": (
        ("training", "stock", "seconds", None),
        ("training", "torch", "seconds", 0.8),
        ("training", "stock", "megabytes", None),
        ("inference", "stock", "seconds", None),
        ("inference", "torch", "seconds", 0.8),
    ),
}
UNITS = {
    "seconds": "seconds a step",
    "processor": "processor seconds a step",  # of all cores, waiting loops included
    "megabytes": "MB",
}
WHAT = {"seconds": "", "processor": ", processor time", "megabytes": ", memory"}
NAMES = {
    "stock": "the same network on MindSpore's operators",
    "torch": "the same network in PyTorch, channels last",
    "mindcv": "MindCV's resnet50 on MindSpore's operators",
}


def measure(
    who: str, case: str, model: str, steps: int, batch: int, side: int, share: Allowance
) -> dict[str, float]:
    """Medians of a step's seconds; what the process's memory grew by from the data to its peak."""
    make = _torch if who == "torch" else _mindspore
    step = make(who, case, model, batch, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, processor = clock_steps(step, steps, share)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": statistics.median(seconds),
        "processor": statistics.median(processor),
        "megabytes": (peak - before) / 1024,
    }


def clock_steps(
    step: Callable[[], object], steps: int, share: Allowance
) -> tuple[list[float], list[float]]:
    """Seconds and processor seconds of each step after the first few.

    Fewer than ``steps``, but ``LEAST``, if the next wouldn't fit into the share.
    """
    seconds, processor = [], []
    while len(seconds) < WARM_UP + steps:
        if len(seconds) >= WARM_UP + LEAST and max(seconds[WARM_UP:]) > share.left():
            break
        started, used = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return seconds[WARM_UP:], processor[WARM_UP:]


def _mindspore(who: str, case: str, model: str, batch: int, side: int) -> Callable[[], object]:
    import mindcv
    import mindspore as ms
    import numpy as np

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep
    from mindcv_ghost.kernels import all_finite, momentum, use_native

    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    ms.set_seed(1)
    network = mindcv.create_model("resnet50" if who == "mindcv" else model)
    report = use_native(
        network, wanted=who == "native", device="CPU", graph_mode=True, amp_level="O0"
    )
    if who == "native" and report.threads == 0:
        raise SystemExit(str(report))
    random = np.random.default_rng(0)
    image = ms.Tensor(random.normal(size=(batch, 3, side, side)).astype(np.float32))
    label = ms.Tensor(random.integers(0, 1000, batch).astype(np.int32))
    if case == "inference":
        network.set_train(False)
        return lambda: network(image).asnumpy()
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), [0.01] * 1000, "CPU")
    loss = NetworkWithLoss(network, mindcv.create_loss("CE"))
    fused = momentum(report.library, optimizer)
    step = TrainStep(loss, optimizer, finite=all_finite(report.library), fused=fused)
    step.set_train()
    return lambda: step(image, label)[0].asnumpy()


def _torch(who: str, case: str, model: str, batch: int, side: int) -> Callable[[], object]:
    from tests.needs_torch import torch_and_timm

    torch, timm = torch_and_timm()
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from tests.parity.ghost_torch import GhostResNet50

    torch.manual_seed(1)
    ratio = {"ghost_resnet50": 2, "ghost_resnet50_s4": 4}.get(model)
    network = GhostResNet50(ratio=ratio) if ratio else timm.create_model(model)
    if case == "inference":
        network.train(False)
        for module in network.modules():
            children = list(module.named_children())
            for (first, conv), (second, norm) in zip(children, children[1:]):
                if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                    setattr(module, first, fuse_conv_bn_eval(conv, norm))
                    setattr(module, second, torch.nn.Identity())
    network = network.to(memory_format=torch.channels_last)
    image = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    label = torch.randint(0, 1000, (batch,))
    if case == "inference":

        def infer() -> object:
            with torch.inference_mode():
                return network(image)

        return infer
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def step() -> object:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(image), label)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    """Measure in turn; print a row for each rival and case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 5), ("steps", 8), ("batch", 32), ("side", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="ghost_resnet50")
    parser.add_argument("--case", choices=("training", "inference"))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=math.inf, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rows = ROWS.get(arguments.model, ROWS["other"])
    sizes = (arguments.steps, arguments.batch, arguments.side)
    if arguments.only:
        share = Allowance(arguments.share)
        print(json.dumps(measure(arguments.only, arguments.case, arguments.model, *sizes, share)))
        return
    cases = (arguments.case,) if arguments.case else ("training", "inference")
    allowance, left_out = Allowance(), []
    for number, case in enumerate(cases):
        order = everybody(rows, case)
        # An equal share of what is left for each process to come.
        processes = arguments.rounds * sum(len(everybody(rows, each)) for each in cases[number:])
        to_come = itertools.count(processes, -1)
        measures = {
            who: lambda who=who, case=case, to_come=to_come: _run(
                who, case, arguments.model, sizes, allowance.left() / next(to_come)
            )
            for who in order
        }
        rounds = in_turn(measures, arguments.rounds, allowance, len(cases) - number)
        for row_case, rival, unit, goal in rows:
            both = [each for each in rounds if "native" in each and rival in each]
            if row_case == case and both:
                print(json.dumps(_row(case, rival, unit, goal, both, arguments)), flush=True)
        left_out += [NAMES[who] for who in order[1:] if not any(who in each for each in rounds)]
    tell_left_out(left_out)


def everybody(rows: tuple, case: str) -> list[str]:
    """Ours, then the rivals in the order in which they are measured: those with a goal first.

    >>> everybody(ROWS["other"], "training")
    ['native', 'torch', 'stock']
    """
    rivals = sorted((row for row in rows if row[0] == case), key=lambda row: row[3] is None)
    return list(dict.fromkeys(("native", *(row[1] for row in rivals))))


def _run(
    who: str, case: str, model: str, sizes: tuple[int, int, int], share: float
) -> dict[str, float]:
    options = [f"--{name}={value}" for name, value in zip(("steps", "batch", "side"), sizes)]
    options.append(f"--share={share}")
    command = [sys.executable, __file__, "--only", who, "--case", case, "--model", model, *options]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def _row(case: str, rival: str, unit: str, goal: float | None, rounds: list, arguments) -> dict:
    ratios = [each[rival][unit] / each["native"][unit] for each in rounds]
    size = f"{arguments.batch} images of {arguments.side}x{arguments.side}"
    return {
        "benchmark": "One step",
        "case": f"{arguments.model}, {case}, {size}{WHAT[unit]}",
        "value": round(statistics.median(each["native"][unit] for each in rounds), 4),
        "unit": UNITS[unit],
        "rival": NAMES[rival] + (", BN folded" if (case, rival) == ("inference", "torch") else ""),
        "rival_value": round(statistics.median(each[rival][unit] for each in rounds), 4),
        "ratio": round(statistics.median(ratios), 3),
        "goal": "" if goal is None else f">= {goal:.3g}",
    }


if __name__ == "__main__":
    main()
