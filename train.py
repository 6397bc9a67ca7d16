"""Train a model of MindCV or mindcv_ghost by a recipe.

python train.py --config configs/ghostnet/ghost_resnet50_digits.yaml
mpirun -n 8 python train.py --config configs/ghostnet/ghost_resnet50_ascend.yaml --data_dir DIR
"""

from __future__ import annotations

import os
import sys

from mindcv_ghost.config import load_config
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import check_distribute, detect
from mindcv_ghost.run.imports import loading


def main(argv: list[str]) -> int:
    """Parse, build, run."""
    config = load_config(argv, script="train")
    world = detect(os.environ)
    check_distribute(world, config.system.distribute)

    # MindSpore is loaded only now: bad input ends sooner.
    with loading():
        from mindcv_ghost.run import session
        from mindcv_ghost.run import training as build

    with session.opened(config, world, writes=True) as opened:
        run = build.training(config, world, opened)
        session.log_start(run.facts)
        summary = run.trainer.run()
        session.log_end(opened, run.facts, summary)
    return summary.status


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
