"""An examination of one check, which hangs, raises or dies on one rank; no MindSpore.

one_check.py DEED RANK DEADLINE [GRACE] [json]
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

from mindcv_ghost.doctor import board, examination, rounds, watch
from mindcv_ghost.doctor.examination import Check, Examination
from mindcv_ghost.doctor.findings import OK, Finding, Report
from mindcv_ghost.doctor.usage import Asked
from mindcv_ghost.launch.cluster import barrier
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import detect


def hang() -> None:
    end = time.time() + 80
    while time.time() < end:  # a signal ends one
        ctypes.PyDLL(None).sleep(80)  # with Python's lock held, as MindSpore does


def fail() -> None:
    raise ValueError("no such thing\nand a second line")


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def rest() -> None:
    print("resting", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)


DEEDS = {"hang": hang, "fail": fail, "die": die, "rest": rest, "nothing": lambda: None}


def main(argv: list[str]) -> int:
    deed, rank, deadline, *more = argv
    if more and more[0] != "json":
        for module in (board, examination, watch):
            module.GRACE_SECONDS = float(more[0])
    world = detect(os.environ)
    asked = Asked(json="json" in more)

    def check() -> Finding:
        if world.rank == int(rank):
            DEEDS[deed]()
        elif deed == "fail" and int(rank) == 1:
            hang()  # waits for the one that has failed
        return Finding("second", OK, "done")

    with contextlib.ExitStack() as stack:
        common, folder = rounds._open_board(world, asked)
        stack.callback(common.remove)
        report = Report({"device": "none"})
        watching = watch.Watch(world.rank, world.size, folder, asked.json, report.facts)
        stack.callback(watching.close)
        show = rounds._printer(asked, world)
        exam = Examination(world, common, watching, report, show)
        exam.make(
            [
                Check("first", lambda: Finding("first", OK, "fine")),
                Check("second", check, float(deadline)),
                Check("third", lambda: Finding("third", OK, "fine"), needs=("second",)),
                Check("fourth", lambda: Finding("fourth", OK, "fine")),
            ]
        )
        if not exam.lost:
            barrier("the end of the test")
    return rounds._finish(asked, world, report, exam.lost)


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
