"""Seconds from the launcher's start to the first AllReduce of 2 ranks, compared with msrun.

Ours is `mpirun -n 2` with mindcv_ghost.launch.cluster; the rival is `msrun` with MindSpore's own
init(). They are measured in turn, and the medians and the slowest starts are compared.

    python benchmarks/start_up.py [--pairs 10]

Predicted: equal, because both import MindSpore (3 s) and register with a scheduler.
docs/performance.md has the results.
"""

from __future__ import annotations

import argparse
import functools
import os
import socket
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import (  # noqa: E402
    BIN,
    TimeBudget,
    fail_if_left_out,
    launcher_environ,
    measure_rounds,
    print_row,
    run_launcher,
    scratch_folder,
)


def first_all_reduce(started: float) -> None:
    """Run an AllReduce; rank 0 prints the seconds since the launcher was started."""
    import mindspore as ms
    from mindspore import communication, nn, ops

    class Sum(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.all_reduce = ops.AllReduce()

        def construct(self, x):
            return self.all_reduce(x)

    total = float(Sum()(ms.Tensor([1.0], ms.float32)).asnumpy()[0])
    assert total == 2.0
    if communication.get_rank() == 0:
        print(f"seconds {time.time() - started:.2f}", flush=True)


def ours(argv: list[str]) -> int:
    """Run a rank that this project's launch package joins to the cluster."""
    from mindcv_ghost.launch.cluster import join
    from mindcv_ghost.launch.world import detect

    join(detect(os.environ), "CPU")
    first_all_reduce(float(argv[0]))
    return 0


def plain(started: str) -> None:
    """Run a rank that MindSpore's own init() joins to the cluster."""
    os.environ.setdefault("GLOG_v", "3")
    import mindspore as ms

    ms.set_device("CPU")
    ms.communication.init()
    first_all_reduce(float(started))


def measure(launcher: str) -> float:
    """Start two ranks; return the seconds that rank 0 printed."""
    if launcher == "mpirun":
        command = [BIN / "mpirun", "--oversubscribe", "-n", 2, sys.executable]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [BIN / "msrun", "--worker_num", 2, "--local_worker_num", 2]
        command += ["--master_port", port, "--join", "True"]
    with scratch_folder() as folder:
        command = [str(c) for c in [*command, __file__, "--rank", launcher, time.time()]]
        done = run_launcher(command, cwd=folder, env=launcher_environ())
        logs = "".join(p.read_text(errors="replace") for p in folder.glob("worker_*.log"))
    lines = [line for line in (done.stdout + logs).splitlines() if line.startswith("seconds ")]
    if not lines:
        raise SystemExit(f"{launcher} failed:\n{done.stdout}{done.stderr}{logs}")
    return float(lines[0].split()[1])


def main() -> None:
    """Measure in turn; print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    pairs = parser.parse_args().pairs
    launchers = ("mpirun", "msrun")
    measures = {name: functools.partial(measure, name) for name in launchers}
    found = [each for each in measure_rounds(measures, pairs, TimeBudget()) if len(each) == 2]
    if not found:
        fail_if_left_out(["msrun"])
    seconds = {name: [each[name] for each in found] for name in launchers}
    mine, other = statistics.median(seconds["mpirun"]), statistics.median(seconds["msrun"])
    case = "launcher to first AllReduce of 2 ranks, mpirun"
    print_row("Start-up", case, mine, "s", "msrun with MindSpore's init()", other, other / mine)
    slowest, worst = max(seconds["mpirun"]), max(seconds["msrun"])
    print_row("Start-up", f"{case}, the slowest", slowest, "s", "msrun", worst, worst / slowest)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"] and sys.argv[2] == "mpirun":
        from mindcv_ghost.launch.script import run_script

        sys.exit(run_script(ours, sys.argv[3:]))
    elif sys.argv[1:2] == ["--rank"]:
        plain(sys.argv[3])
    else:
        main()
