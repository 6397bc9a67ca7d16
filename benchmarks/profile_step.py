"""Profile a training step on stock and on native operators, and compare it with the limit.

MindSpore's profiler gives each operator's time. For ours it only says ``Custom``, so these are
called through a library that times each by name. The limit is the machine's: the multiply-adds at
the peak of its cores, or every tensor read and written once at the peak of its memory, whichever
takes longer. Both peaks are measured in the same run (``limits.cc``, with the operators' compiler
and options).

    python benchmarks/profile_step.py [--model ghost_resnet50] [--batch 32] [--side 128] [--steps 4]
                                      [--csv benchmarks/profile.csv]

writes benchmarks/profile.csv, the source of docs/performance.md, and prints a row for stock and one
for native operators. For another Ghost-ResNet than Ghost-ResNet-50, name another CSV. Predicted:
native operators take three times the limit.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import (  # noqa: E402
    ROOT,
    TimeBudget,
    fail_if_left_out,
    measure_rounds,
    print_row,
    provenance,
)
from benchmarks.profile_limits import MachineLimits, limits_of_parts, measure_machine  # noqa: E402
from benchmarks.profile_operators import compile_timer, part_of_native, part_of_stock  # noqa: E402
from benchmarks.train_step import mindspore_step as training_step  # noqa: E402
from mindcv_ghost.storage.atomic_file import write_text  # noqa: E402
from tools.pages.profile import BETWEEN, COLUMNS  # noqa: E402

WARM_UP = 3
GOAL = ">= 0.65"  # of native operators' step of ghost_resnet50
ANALYSIS = 10  # seconds; more than the profiler's analysis and the limits take


def profile(who: str, model: str, batch: int, side: int, steps: int, share: TimeBudget) -> dict:
    """Profile a training step in this process.

    Args:
        who: ``native`` or ``stock``.
        model: name of a Ghost-ResNet.
        batch: number of images.
        side: of the images, in pixels.
        steps: number of steps to average; fewer are taken if the share is too short.
        share: the time for everything that is done here.

    Returns:
        ``seconds`` of a step without the profiler; ``milliseconds`` of a step with it, as a list
        of (part, operator, time); ``limits``, the operations and bytes of each part.
    """
    import mindcv
    import mindspore as ms

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timer = compile_timer(folder) if who == "native" else None
        step = training_step(who, "training", model, batch, side)

        def seconds(steps: int) -> float:
            started = time.perf_counter()
            for _ in range(steps):
                step()
            return (time.perf_counter() - started) / steps

        for _ in range(WARM_UP - 1):
            step()
        last = seconds(1)
        # The steps are run twice, without the profiler and with it.
        steps = int(max(1, min(steps, (share.left() - ANALYSIS) / (2 * last))))
        plain = seconds(steps)
        profiler = ms.Profiler(output_path=str(folder / "profile"), start_profile=False)
        profiler.start()
        if timer:
            timer.reset()
        profiled = seconds(steps)
        native = timer.milliseconds() if timer else {}
        profiler.stop()
        profiler.analyse()
        found = _grouped(folder / "profile", native, steps, 1e3 * profiled)
        limits = limits_of_parts(mindcv.create_model(model), batch, side)
    return {"seconds": plain, "milliseconds": found, "limits": limits}


def _grouped(folder: Path, native: dict[str, float], steps: int, whole: float) -> list:
    """Return the milliseconds of a step by part and operator; the rest is ``BETWEEN``."""
    times: Counter = Counter()
    for path in folder.rglob("cpu_op_detail_info_*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if not (native and row["op_type"] == "Custom"):
                    part = part_of_stock(row["op_type"], row["full_op_name"])
                    times[part] += float(row["op_total_time(ms)"]) / steps
    for name, milliseconds in native.items():
        times[part_of_native(name)] += milliseconds / steps
    if not times:
        raise SystemExit("MindSpore's profiler reported no operator")
    times[BETWEEN, "starting operators"] = max(0.0, whole - sum(times.values()))
    return [[*part, milliseconds] for part, milliseconds in times.items()]


def write(path: Path, machine: MachineLimits, answers: dict[str, dict], case: str) -> None:
    """Write the CSV: limits, then stock operators, then native ones; keep other steps' rows."""
    facts = {**provenance(), "case": case}
    facts["peak_gflops"] = f"{machine.operations / 1e9:.4g}"
    facts["peak_gbytes"] = f"{machine.bandwidth / 1e9:.4g}"
    rows = []
    for part, (operations, size) in answers["native"]["limits"].items():
        milliseconds = 1e3 * machine.seconds(operations, size)
        row = {"operators": "limit", "part": part, "operator": "", "ms": f"{milliseconds:.4g}"}
        rows.append({**row, "gflop": f"{operations / 1e9:.5g}", "mbytes": f"{size / 1e6:.5g}"})
    for who in ("stock", "native"):
        for part, operator, milliseconds in answers[who]["milliseconds"]:
            row = {"operators": who, "part": part, "operator": operator, "gflop": "", "mbytes": ""}
            rows.append({**row, "ms": f"{milliseconds:.4g}"})
    others: list[dict] = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            others = [row for row in csv.DictReader(file) if not _is_of(row, facts)]
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(others + [{**row, **facts} for row in rows])
    write_text(path, out.getvalue())


def _is_of(row: dict, facts: dict[str, str]) -> bool:
    return all(row[name] == facts[name] for name in ("case", "machine"))


def main() -> None:
    """Measure, write the CSV, print two rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batch", 32), ("side", 128), ("steps", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="ghost_resnet50")
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "profile.csv")
    parser.add_argument("--only", choices=("native", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=math.inf, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    case = (arguments.model, arguments.batch, arguments.side, arguments.steps)
    if arguments.only:
        share = TimeBudget(arguments.share)
        print("answer " + json.dumps(profile(arguments.only, *case, share)))
        return
    budget = TimeBudget()
    machine = measure_machine()
    # Native operators first, because they give the limits. Stock ones get the time that is left.
    measures = {
        "native": lambda: _run("native", case, budget.left() / 2),
        "stock": lambda: _run("stock", case, budget.left()),
    }
    answers = next(iter(measure_rounds(measures, 1, budget)), {})
    left_out = [f"{who} operators" for who in measures if who not in answers]
    if "native" not in answers:
        fail_if_left_out(left_out)
    model, batch, side, _ = case
    what = f"{model}, training, {batch} images of {side}x{side}"
    if not left_out:  # the page's table needs stock and native
        write(arguments.csv, machine, answers, what)
    work = answers["native"]["limits"].values()
    limit = sum(machine.seconds(operations, size) for operations, size in work)
    for who in reversed(answers):  # stock first, as on the page
        seconds = answers[who]["seconds"]
        print_row(
            *("Limit of a step", f"{what}, {who} operators", seconds, "s"),
            *("the machine's peaks", limit, limit / seconds),
            GOAL if (model, who) == ("ghost_resnet50", "native") else "",
        )
    fail_if_left_out(left_out)


def _run(who: str, case: tuple[str, int, int, int], share: float) -> dict:
    names = ("model", "batch", "side", "steps")
    options = [f"--{name}={value}" for name, value in zip(names, case)]
    options.append(f"--share={share}")
    command = [sys.executable, __file__, "--only", who, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    if not lines:
        raise SystemExit(f"{who} operators failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return json.loads(lines[-1].split(" ", 1)[1])


if __name__ == "__main__":
    main()
