"""A rank of test_cluster.py's jobs: joins, adds up, and does what it is told.

cluster_rank.py WHAT [RANK]: ok | loop | raise | exit | early-raise | config
"""

from __future__ import annotations

import os
import sys
import time

from mindcv_ghost.cluster import join, run_script
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.launch import detect


def main(argv: list[str]) -> int:
    world = detect(os.environ)
    what = argv[0]
    chosen = len(argv) < 2 or world.rank == int(argv[1])
    print(f"pid {world.rank} {os.getpid()}", flush=True)
    if what == "config":
        raise ConfigError("lr is 'fast', which isn't legal")
    if what == "early-raise" and chosen:
        raise ValueError("before the others are there")
    with join(world, "CPU"):
        import numpy as np

        from mindcv_ghost.engine.collectives import Collectives

        ranks = Collectives(world.rank, world.size)
        total = ranks.sum(np.array([world.rank + 1.0], np.float32))
        print(f"joined {world.rank} {float(total[0]):g}", flush=True)
        if what == "raise" and chosen:
            raise ValueError("in the midst of it")
        if what == "exit" and chosen:
            sys.exit(3)
        if what == "loop" or not chosen:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                ranks.barrier()
                time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
