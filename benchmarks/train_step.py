"""Time and memory of a step on the CPU with native operators, compared with rivals.

Ours and each rival are a process. In each round every process takes a turn of a few steps while the
others wait, so that a machine that is busy for some seconds slows all of them. A row, printed as
JSON, has the median over the rounds of the ratio within a round. If the time that `run_all.py`
gives is too short, rounds are left out first, then rivals, beginning with those without a goal.

    python benchmarks/train_step.py [--model ghost_resnet50] [--rounds 15] [--steps 3] [--batch 32]
                                    [--side 128] [--ratio 1] [--baseline COMMIT]

Rivals: the same network on MindSpore's stock operators; the same network in PyTorch with
channels-last memory, timm's except for Ghost-ResNet-50 (for inference BN is folded into the
convolution before it); and, for Ghost-ResNet-50, MindCV's resnet50. Training is forward, backward
and momentum; inference is the network in evaluation mode. The median of a turn's steps counts,
because a turn's first step finds the rivals' data in the caches.

Ghost-ResNet-20 for small images has three rivals in PyTorch: channels last, contiguous, and
torch.compile. With `--ratio 1` it is the ResNet-20 that it comes from. `--baseline COMMIT` adds the
same network by this repository's operators of that commit, which are compiled first.

`--case code` and `--case pynative` measure what users write who don't use train.py: `create_model`,
`accelerate` and MindSpore's `TrainOneStepCell`, as in docs/acceleration.md, in graph mode and in
PyNative mode. Their rivals are the same without `accelerate`, PyTorch, and train.py's step.

Predicted: a step is 2.8 times as fast as on stock operators, 1.5 times as fast as PyTorch's and 1.9
times as fast as MindCV's resnet50, with 0.7 of the memory; inference is 1.4 times as fast as
PyTorch's. A step of ghostnetv2_100 at 224x224 is twice as fast as PyTorch's, inference 1.2 times.
In code, a step is 2.5 times as fast as without `accelerate`, 1.5 times as fast as PyTorch's, and
takes at most 1.08 times as long as train.py's, which has its momentum in one operator. In PyNative
mode it is twice as fast as without `accelerate`.
A step of Ghost-ResNet-20 and of its parent, 128 images of 32x32, takes 1 / 2.5 of that of commit
dadc5ed and half of the fastest of PyTorch's.
docs/performance.md has the results.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import (  # noqa: E402
    ROOT,
    OutOfTime,
    TimeBudget,
    fail_if_left_out,
    measure_rounds,
    scratch_folder,
)

WARM_UP = 2  # steps of a process before its first turn
MIN_ROUNDS = 2  # a rival is started only if there is time for so many rounds

# model -> rows of (case, rival, what is compared, goal for the ratio of the rival's value to ours)
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
        ("code", "stock", "seconds", 2.5),
        ("code", "torch", "seconds", 1.5),
        ("code", "train.py", "seconds", 0.93),
        ("pynative", "stock", "seconds", 2.0),
        ("pynative", "torch", "seconds", None),
    ),
    "ghost_resnet50_s4": (
        ("training", "stock", "seconds", None),
        ("training", "torch", "seconds", 1.2),
        ("training", "stock", "megabytes", None),
        ("inference", "stock", "seconds", None),
        ("inference", "torch", "seconds", None),
    ),
    "ghost_resnet20_cifar": (
        ("training", "torch", "seconds", 2.0),
        ("training", "contiguous", "seconds", 2.0),
        ("training", "compiled", "seconds", 2.0),
        ("training", "baseline", "seconds", 2.5),
        ("training", "stock", "seconds", None),
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
    "processor": "processor seconds a step",  # of all cores, including busy waiting
    "megabytes": "MB",
}
TORCH = ("torch", "contiguous", "compiled")
RATIO_MODEL = "ghost_resnet20_cifar"  # its rivals in PyTorch have the argument, too
CASES = {
    "training": "training",
    "inference": "inference",
    "code": "training in code",
    "pynative": "training in code, PyNative mode",
}
CASE_SUFFIX = {"seconds": "", "processor": ", processor time", "megabytes": ", memory"}
NAMES = {
    "stock": "the same network on MindSpore's operators",
    "torch": "the same network in PyTorch, channels last",
    "contiguous": "the same network in PyTorch, contiguous",
    "compiled": "the same network in PyTorch, torch.compile",
    "baseline": "the same network on this repository's operators of commit",
    "mindcv": "MindCV's resnet50 on MindSpore's operators",
    "train.py": "the same network in train.py's step",
}


def serve_turns(
    who: str, case: str, model: str, ratio: int, steps: int, batch: int, side: int
) -> None:
    """Run a process that takes a turn for each line on standard input and answers with JSON.

    Its first line has the seconds of a step. Memory is the process's growth from before the first
    step to its peak.
    """
    if who in TORCH:
        step = torch_step(who, case, model, batch, side, ratio)
    elif case in ("code", "pynative") and who != "train.py":
        step = user_step(who, case, model, batch, side)
    else:
        step = mindspore_step(who, case, model, batch, side, ratio)
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
    """Return a step's seconds, and the processor seconds of all threads."""
    started, used = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - started, time.process_time() - used


class TimedProcess:
    """A process that takes a turn when it is asked to, and waits otherwise.

    Args:
        who: "native" or one of ``NAMES``.
        options: of the command line.
        script: the benchmark that serves the turns.
    """

    def __init__(self, who: str, options: list[str], script: str = __file__) -> None:
        command = [sys.executable, script, "--only", who, *options]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        try:
            self.step_seconds = self._answer()["seconds"]
        except BaseException:
            self.close()
            raise

    def turn(self) -> dict[str, float]:
        """Take a turn; return what it measured, such as its ``seconds``."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: _answer raises
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


def start_processes(
    order: list[str],
    begin: Callable[[str], TimedProcess],
    steps: int,
    budget: TimeBudget,
    comparisons: int = 1,
) -> dict[str, TimedProcess]:
    """Start the processes that there is time for.

    Args:
        order: "native" and the rivals, the most important first.
        begin: starts a process.
        steps: steps of a turn.
        budget: of the script.
        comparisons: number of comparisons to come, including this one, which share the time.

    Returns:
        name -> process.
    """
    share, began = budget.left() / comparisons, budget.clock()
    started: dict[str, TimedProcess] = {}
    longest = 0.0
    for who in order:
        now = budget.clock()
        round_seconds = steps * sum(each.step_seconds for each in started.values())
        if started and now - began + longest + MIN_ROUNDS * round_seconds > share:
            break
        try:
            with budget.enforced():
                started[who] = begin(who)
        except OutOfTime:
            break
        longest = max(longest, budget.clock() - now)
    return started


def mindspore_step(
    who: str, case: str, model: str, batch: int, side: int, ratio: int = 0
) -> Callable[[], object]:
    import mindcv
    import mindspore as ms

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.overflow import ValueCheck
    from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep
    from mindcv_ghost.kernels import make_all_finite, make_loss, make_momentum

    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    ms.set_seed(1)
    options = {"ratio": ratio} if ratio else {}
    network = mindcv.create_model("resnet50" if who == "mindcv" else model, **options)
    library = accelerated_library(network) if who in ("native", "train.py") else ""
    image, label = images_and_labels(batch, side)
    if case == "inference":
        network.set_train(False)
        return lambda: network(image).asnumpy()
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), [0.01] * 1000, "CPU")
    loss = mindcv.create_loss("CE")
    with_loss = NetworkWithLoss(network, loss, fused=make_loss(library, loss))
    fused = make_momentum(library, optimizer)
    step = TrainStep(with_loss, optimizer, check=ValueCheck(make_all_finite(library)), fused=fused)
    step.set_train()
    return lambda: step(image, label)[0].asnumpy()


def user_step(who: str, case: str, model: str, batch: int, side: int) -> Callable[[], object]:
    """Make the step of docs/acceleration.md; without ``accelerate`` if ``who`` is "stock"."""
    import mindcv
    import mindspore as ms
    from mindspore import nn

    import mindcv_ghost  # noqa: F401 (registers the zoo)

    ms.set_context(mode=ms.PYNATIVE_MODE if case == "pynative" else ms.GRAPH_MODE)
    ms.set_seed(1)
    network = mindcv.create_model(model)
    if who == "native":
        accelerated_library(network)
    optimizer = nn.Momentum(network.trainable_params(), learning_rate=0.01, momentum=0.9)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.CrossEntropyLoss()), optimizer)
    step.set_train()
    image, label = images_and_labels(batch, side)
    return lambda: step(image, label).asnumpy()


def accelerated_library(network: Any) -> str:
    """Accelerate a network, or end with the reason why it can't be."""
    import mindcv_ghost

    report = mindcv_ghost.accelerate(network)
    if report.threads == 0:
        raise SystemExit(str(report))
    return report.library


def images_and_labels(batch: int, side: int) -> tuple[Any, Any]:
    import mindspore as ms
    import numpy as np

    random = np.random.default_rng(0)
    image = ms.Tensor(random.normal(size=(batch, 3, side, side)).astype(np.float32))
    return image, ms.Tensor(random.integers(0, 1000, batch).astype(np.int32))


def torch_step(
    who: str, case: str, model: str, batch: int, side: int, ratio: int = 0
) -> Callable[[], object]:
    from tests.helpers.needs_torch import torch_and_timm

    torch, timm = torch_and_timm()
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from tests.parity.ghost_torch import GhostResNet20Cifar, GhostResNet50

    torch.manual_seed(1)
    if model == RATIO_MODEL:
        network = GhostResNet20Cifar(1000, ratio or 2)
    elif model in ("ghost_resnet50", "ghost_resnet50_s4"):
        network = GhostResNet50(ratio=4 if model.endswith("_s4") else 2)
    else:
        network = timm.create_model(model)
    if case == "inference":
        network.train(False)
        for module in network.modules():
            children = list(module.named_children())
            for (first, conv), (second, norm) in zip(children, children[1:]):
                if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                    setattr(module, first, fuse_conv_bn_eval(conv, norm))
                    setattr(module, second, torch.nn.Identity())
    layout = torch.contiguous_format if who == "contiguous" else torch.channels_last
    network = network.to(memory_format=layout)
    if who == "compiled":
        network = torch.compile(network)
    image = torch.randn(batch, 3, side, side).to(memory_format=layout)
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


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a folder with this repository's files of a commit."""
    with scratch_folder() as folder:
        subprocess.run(["git", "clone", "-q", "--shared", "-n", str(ROOT), str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "-q", commit], check=True)
        yield folder


def main() -> None:
    """Measure in turn; print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 15), ("steps", 3), ("batch", 32), ("side", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="ghost_resnet50")
    parser.add_argument(
        "--ratio", type=int, default=0, help=f"of the Ghost modules of {RATIO_MODEL}; 0: its own"
    )
    parser.add_argument("--baseline", help="commit whose operators are a rival")
    parser.add_argument("--case", choices=tuple(CASES))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model, steps = arguments.model, arguments.steps
    if arguments.only:
        sizes = (arguments.batch, arguments.side)
        serve_turns(arguments.only, arguments.case, model, arguments.ratio, steps, *sizes)
        return
    rows = ROWS.get(model, ROWS["other"])
    if not arguments.baseline:
        rows = tuple(row for row in rows if row[1] != "baseline")
    if arguments.ratio and model != RATIO_MODEL:
        parser.error(f"--ratio is for --model {RATIO_MODEL}")
    measured = {row[0] for row in rows}
    if arguments.case and arguments.case not in measured:
        cases = ", ".join(case for case in CASES if case in measured)
        parser.error(f"--case {arguments.case} isn't measured for {model}; measured are: {cases}")
    wanted = (arguments.case,) if arguments.case else ("training", "inference")
    cases = [case for case in wanted if case in measured]
    budget, left_out = TimeBudget(), []
    for number, case in enumerate(cases):
        order, comparisons = measuring_order(rows, case), len(cases) - number
        options = [f"--case={case}", f"--model={model}", f"--steps={steps}"]
        options += [f"--batch={arguments.batch}", f"--side={arguments.side}"]
        with contextlib.ExitStack() as stack:

            def begin(who: str, options=options, stack=stack) -> TimedProcess:
                if who == "baseline":
                    root = stack.enter_context(checkout(arguments.baseline))
                    script = str(root / "benchmarks" / "train_step.py")
                    process = TimedProcess("native", options, script)
                else:
                    ratio = [f"--ratio={arguments.ratio}"]
                    process = TimedProcess(who, options + ratio)
                return stack.enter_context(contextlib.closing(process))

            processes = start_processes(order, begin, steps, budget, comparisons)
            turns = {who: each.turn for who, each in processes.items()}
            rounds = measure_rounds(turns, arguments.rounds, budget, comparisons)
        for row_case, rival, unit, goal in rows:
            both = [each for each in rounds if "native" in each and rival in each]
            if row_case == case and both:
                print(json.dumps(_row(case, rival, unit, goal, both, arguments)), flush=True)
        left_out += [NAMES[who] for who in order[1:] if not any(who in each for each in rounds)]
    fail_if_left_out(left_out)


def measuring_order(rows: tuple, case: str) -> list[str]:
    """Return "native" and the rivals in the order of measuring: rivals with a goal first.

    >>> measuring_order(ROWS["other"], "training")
    ['native', 'torch', 'stock']
    """
    rivals = sorted((row for row in rows if row[0] == case), key=lambda row: row[3] is None)
    return list(dict.fromkeys(("native", *(row[1] for row in rivals))))


def _row(case: str, rival: str, unit: str, goal: float | None, rounds: list, arguments) -> dict:
    ratios = [each[rival][unit] / each["native"][unit] for each in rounds]
    size = f"{arguments.batch} images of {arguments.side}x{arguments.side}"
    model = arguments.model + (f" of ratio {arguments.ratio}" if arguments.ratio else "")
    name = NAMES[rival] + (", BN folded" if (case, rival) == ("inference", "torch") else "")
    return {
        "benchmark": "One step",
        "case": f"{model}, {CASES[case]}, {size}{CASE_SUFFIX[unit]}",
        "value": round(statistics.median(each["native"][unit] for each in rounds), 4),
        "unit": UNITS[unit],
        "rival": f"{name} {arguments.baseline}" if rival == "baseline" else name,
        "rival_value": round(statistics.median(each[rival][unit] for each in rounds), 4),
        "ratio": round(statistics.median(ratios), 3),
        "goal": "" if goal is None else f">= {goal:.3g}",
    }


if __name__ == "__main__":
    main()
