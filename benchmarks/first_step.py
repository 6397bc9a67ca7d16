"""Seconds from the start of train.py to its first step, without and with kept graphs.

The first start finds no kept graphs (compile_cache). The second and the third find them and are
treated alike. Measured until the log line of the first step, as a user sees it; run.json has the
compilation alone.

Predicted: 5.5 s and 1.4 s for the compilation. Importing MindSpore (1.5 s), building the network
and the first step itself take as long in both.

    python benchmarks/first_step.py [--rounds 3] [--model ghost_resnet50] [--side 64]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.harness import (  # noqa: E402
    TimeBudget,
    fail_if_left_out,
    measure_rounds,
    print_row,
    scratch_folder,
)
from benchmarks.photographs import write_photographs  # noqa: E402


def start(folder: Path, model: str, side: int, graphs: Path) -> tuple[float, float]:
    """Run a training of two steps; return the seconds to its first step and of compilation."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-u", str(ROOT / "train.py"), "--model", model]
    command += ["--data_dir", str(folder / "data"), "--image_resize", str(side)]
    command += ["--batch_size", "16", "--epoch_size", "1", "--log_interval", "1"]
    command += ["--ckpt_save_dir", str(run), "--opt", "momentum", "--scheduler", "constant"]
    environ = dict(os.environ, PYTHONPATH=str(ROOT), MINDCV_GHOST_GRAPHS=str(graphs))
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as for users, bytecode is kept
    started, first, text = time.perf_counter(), None, []
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout:
            text.append(line)
            if first is None and "step 1/" in line:
                first = time.perf_counter() - started
        process.wait()
    finally:  # it may not outlive its folder
        process.kill()
    if process.returncode or first is None:
        raise SystemExit("train.py failed:\n" + "".join(text))
    return first, json.loads((run / "run.json").read_text())["compile_seconds"]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="ghost_resnet50")
    parser.add_argument("--side", type=int, default=64)
    args = parser.parse_args()
    with scratch_folder() as folder:
        write_photographs(folder / "data" / "train", 4, 8)
        graphs = folder / "graphs"

        def without_graphs() -> tuple[float, float]:
            shutil.rmtree(graphs, ignore_errors=True)
            return start(folder, args.model, args.side, graphs)

        with_graphs = functools.partial(start, folder, args.model, args.side, graphs)
        starts = {"first": without_graphs, "second": with_graphs, "third": with_graphs}
        rounds = measure_rounds(starts, args.rounds, TimeBudget())
    rounds = [list(values.values()) for values in rounds if len(values) > 1]
    if not rounds:
        fail_if_left_out(["the second start"])
    first = [statistics.median(column) for column in zip(*(starts[0] for starts in rounds))]
    later = [start for starts in rounds for start in starts[1:]]
    second = [statistics.median(column) for column in zip(*later)]
    case = f"{args.model}, batch 16, {args.side}x{args.side}"
    for k, what in enumerate(("start to first step", "compilation alone")):
        row = ("Second start", f"{what}, {case}", second[k], "s", "the first start", first[k])
        print_row(*row, first[k] / second[k], ">= 3")


if __name__ == "__main__":
    main()
