"""Runs on every rank of test_two_ranks.py's job; rank 0 prints what is right."""

from __future__ import annotations

import os
import sys

from mindcv_ghost.launch.cluster import join
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import detect
from tests.engine.collectives_ranks import check_collectives
from tests.engine.overflow_ranks import check_overflow


def main(argv: list[str]) -> int:
    world = detect(os.environ)
    join(world, "CPU")
    for check in (check_collectives, check_overflow):
        check(world)
        if world.is_main:
            print(check.__name__, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
