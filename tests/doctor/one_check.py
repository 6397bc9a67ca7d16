"""Runs the doctor with one check, which hangs, raises or dies on one rank; no MindSpore.

one_check.py ACTION RANK DEADLINE [GRACE] [json]
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

from mindcv_ghost.doctor import exchange, runner, watchdog
from mindcv_ghost.doctor.diagnosis import finish, open_exchange, printer
from mindcv_ghost.doctor.options import Options
from mindcv_ghost.doctor.report import OK, CheckResult, Report
from mindcv_ghost.doctor.runner import Check, CheckRunner
from mindcv_ghost.doctor.watchdog import Watchdog
from mindcv_ghost.launch.cluster import barrier
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import detect


def hang() -> None:
    end = time.time() + 80
    while time.time() < end:  # a signal interrupts a sleep
        ctypes.PyDLL(None).sleep(80)  # with Python's lock held, as MindSpore does


def fail() -> None:
    raise ValueError("no such thing\nand a second line")


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def rest() -> None:
    print("resting", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)


ACTIONS = {"hang": hang, "fail": fail, "die": die, "rest": rest, "nothing": lambda: None}


def main(argv: list[str]) -> int:
    action, rank, deadline, *more = argv
    if more and more[0] != "json":
        for module in (exchange, runner, watchdog):
            module.GRACE_SECONDS = float(more[0])
    world = detect(os.environ)
    options = Options(json="json" in more)

    def check() -> CheckResult:
        if world.rank == int(rank):
            ACTIONS[action]()
        elif action == "fail" and int(rank) == 1:
            hang()  # waits for the one that has failed
        return CheckResult("second", OK, "done")

    with contextlib.ExitStack() as stack:
        shared, folder = open_exchange(world, options)
        stack.callback(shared.remove)
        report = Report({"device": "none"})
        watching = Watchdog(world.rank, world.size, folder, options.json, report.facts)
        stack.callback(watching.close)
        show = printer(options, world)
        checks = CheckRunner(world, shared, watching, report, show)
        checks.run(
            [
                Check("first", lambda: CheckResult("first", OK, "fine")),
                Check("second", check, float(deadline)),
                Check("third", lambda: CheckResult("third", OK, "fine"), needs=("second",)),
                Check("fourth", lambda: CheckResult("fourth", OK, "fine")),
            ]
        )
        if not checks.ranks_are_missing:
            barrier("the end of the test")
    return finish(options, world, report, checks.ranks_are_missing)


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
