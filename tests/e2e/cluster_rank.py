"""A rank of test_cluster.py's jobs: joins, sums over the ranks, then acts as its arguments say.

cluster_rank.py WHAT [RANK]: ok | loop | raise | exit | return | early-raise | config
cluster_rank.py slow-exit DEVICE: ends late, as a device's collectives may
cluster_rank.py train | deaf: a training's loop; in the latter, the chosen rank ignores signals
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time

from mindcv_ghost.errors import ConfigError
from mindcv_ghost.launch.cluster import deliver_signals, join
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import detect

STATUSES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 0}


def train(ranks, rank: int, deaf: bool) -> int:
    """Steps until any rank has been told to stop, a save that takes two seconds, the status."""
    import numpy as np

    came = []
    for number in STATUSES:
        signal.signal(number, lambda number, _: came.append(number))
    with deliver_signals():
        print(f"trains {rank}", flush=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            while deaf and came:
                time.sleep(1)
            number = int(ranks.gather(np.array([max(came, default=0)], np.int32)).max())
            if number:
                break
            time.sleep(0.05)
        for _ in range(20):
            print("saving", flush=True)  # mpirun may have gone: nobody reads it
            time.sleep(0.1)
        if os.environ.get("SAVED"):
            with open(f"{os.environ['SAVED']}.{rank}", "w") as file:
                file.write(",".join(signal.Signals(number).name for number in came))
    return STATUSES.get(number, 1)


def end_late(rank: int) -> None:
    time.sleep(24)
    print(f"ended {rank}", flush=True)


def main(argv: list[str]) -> int:
    world = detect(os.environ)
    what = argv[0]
    device = argv[1] if what == "slow-exit" else "CPU"
    chosen = len(argv) < 2 or what == "slow-exit" or world.rank == int(argv[1])
    print(f"pid {world.rank} {os.getpid()}", flush=True)
    if what == "config":
        raise ConfigError("lr is 'fast', which isn't legal")
    if what == "early-raise" and chosen:
        raise ValueError("before the others are there")
    if what == "slow-exit":
        atexit.register(end_late, world.rank)
    join(world, device)
    import numpy as np

    from mindcv_ghost.engine.collectives import Collectives

    ranks = Collectives(world.rank, world.size)
    total = ranks.sum(np.array([world.rank + 1.0], np.float32))
    print(f"joined {world.rank} {float(total[0]):g}", flush=True)
    if what == "raise" and chosen:
        raise ValueError("in the midst of it")
    if what == "exit" and chosen:
        sys.exit(3)
    if what == "return":
        return 5
    if what in ("train", "deaf"):
        return train(ranks, world.rank, what == "deaf" and chosen)
    if what == "loop" or not chosen:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            ranks.barrier()
            time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
