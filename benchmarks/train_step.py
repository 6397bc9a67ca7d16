"""A network on the CPU with native operators: how fast, against whom, in how much memory?

A process a rival; all of them stay and take a turn of a few steps in each round while the others
wait, so that a machine that others slow down for seconds slows all of them. Every row is the median
over the rounds of the ratio within a round, printed as one JSON object. Where the time that
`run_all.py` gives is too short, rounds are left out, then rivals, those without a goal first.

    python benchmarks/train_step.py [--model ghost_resnet50] [--rounds 15] [--steps 3] [--batch 32]
                                    [--side 128]

Rivals: the same network on MindSpore's stock operators, the same network in PyTorch with
channels-last memory (for inference with BN folded into the convolutions where they follow each
other; networks but Ghost-ResNet-50 are timm's), and, for Ghost-ResNet-50, MindCV's resnet50.
Training is forward, backward and momentum; inference is the network in evaluation. What a turn
counts is the median of its steps: of one step alone, the caches are still the rivals'.

Predicted: a step 2.8 times as fast as on stock operators, 1.5 times PyTorch, 1.9 times MindCV's
resnet50; inference 1.4 times PyTorch; 0.7 of the memory. Of ghostnetv2_100 at 224x224 a step twice
as fast as PyTorch's, and inference 1.2 times. For what came out see docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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

from benchmarks.rows import Allowance, OutOfTime, in_turn, tell_left_out  # noqa: E402

WARM_UP = 2  # steps of a process before its first turn
LEAST_ROUNDS = 2  # that there has to be time for when one more rival is started

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


def take_turns(who: str, case: str, model: str, steps: int, batch: int, side: int) -> None:
    """A rival's process: a turn for each line that comes in, and a line of JSON for each.

    A first line says what a step takes. Memory is what the process grew by from the data to its
    peak.
    """
    make = _torch if who == "torch" else _mindspore
    step = make(who, case, model, batch, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    warm_up = [clock_step(step) for _ in range(WARM_UP)]
    print(json.dumps({"seconds": warm_up[-1][0]}), flush=True)
    for _ in sys.stdin:
        seconds, processor = zip(*(clock_step(step) for _ in range(steps)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        turn = {
            "seconds": statistics.median(seconds),
            "processor": statistics.median(processor),
            "megabytes": (peak - before) / 1024,
        }
        print(json.dumps(turn), flush=True)


def clock_step(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and processor seconds of all threads."""
    started, used = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - started, time.process_time() - used


class Contestant:
    """A process that takes a turn when it is asked to, and waits in between.

    Args:
        who: "native" or one of ``NAMES``.
        options: of the command line.
    """

    def __init__(self, who: str, options: list[str]) -> None:
        command = [sys.executable, __file__, "--only", who, *options]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        try:
            self.step_seconds = self._answer()["seconds"]
        except BaseException:
            self.close()
            raise

    def turn(self) -> dict[str, float]:
        """What a turn took: ``seconds``, ``processor`` and ``megabytes``."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; how, the answer says
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _answer(self) -> dict[str, float]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self._process.args} ended with status {self._process.wait()}")


def start(
    order: list[str],
    begin: Callable[[str], Contestant],
    steps: int,
    allowance: Allowance,
    comparisons: int = 1,
) -> dict[str, Contestant]:
    """Start those, in this order, whom there is time for.

    Args:
        order: ours first.
        begin: starts one.
        steps: of a turn.
        allowance: of the script.
        comparisons: how many are still to come, this one among them: it gets its share.
    """
    share, came = allowance.left() / comparisons, allowance.clock()
    started: dict[str, Contestant] = {}
    longest = 0.0
    for who in order:
        begun = allowance.clock()
        a_round = steps * sum(each.step_seconds for each in started.values())
        if started and begun - came + longest + LEAST_ROUNDS * a_round > share:
            break
        try:
            with allowance.enforced():
                started[who] = begin(who)
        except OutOfTime:
            break
        longest = max(longest, allowance.clock() - begun)
    return started


def _mindspore(who: str, case: str, model: str, batch: int, side: int) -> Callable[[], object]:
    import mindcv
    import mindspore as ms
    import numpy as np

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.overflow import ValueCheck
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep
    from mindcv_ghost.kernels import make_all_finite, make_momentum, use_native

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
    fused = make_momentum(report.library, optimizer)
    step = TrainStep(
        loss, optimizer, check=ValueCheck(make_all_finite(report.library)), fused=fused
    )
    step.set_train()
    return lambda: step(image, label)[0].asnumpy()


def _torch(who: str, case: str, model: str, batch: int, side: int) -> Callable[[], object]:
    from tests.helpers.needs_torch import torch_and_timm

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
    for name, default in (("rounds", 15), ("steps", 3), ("batch", 32), ("side", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="ghost_resnet50")
    parser.add_argument("--case", choices=("training", "inference"))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model, steps = arguments.model, arguments.steps
    if arguments.only:
        take_turns(arguments.only, arguments.case, model, steps, arguments.batch, arguments.side)
        return
    rows = ROWS.get(model, ROWS["other"])
    cases = (arguments.case,) if arguments.case else ("training", "inference")
    allowance, left_out = Allowance(), []
    for number, case in enumerate(cases):
        order, comparisons = everybody(rows, case), len(cases) - number
        options = [f"--case={case}", f"--model={model}", f"--steps={steps}"]
        options += [f"--batch={arguments.batch}", f"--side={arguments.side}"]
        with contextlib.ExitStack() as stack:

            def begin(who: str, options=options, stack=stack) -> Contestant:
                return stack.enter_context(contextlib.closing(Contestant(who, options)))

            contestants = start(order, begin, steps, allowance, comparisons)
            turns = {who: each.turn for who, each in contestants.items()}
            rounds = in_turn(turns, arguments.rounds, allowance, comparisons)
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
