"""Measure top-1 and top-5 of a checkpoint; the last line of standard output is one JSON object.

python validate.py --config configs/ghostnet/ghost_resnet50_ascend.yaml --data_dir DIR --ckpt_path F
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
    config = load_config(argv, script="validate")
    world = detect(os.environ)
    check_distribute(world, config.system.distribute)

    # MindSpore is loaded only now: bad input ends sooner.
    with loading():
        from mindcv_ghost.report import evaluation as validation
        from mindcv_ghost.run import session
        from mindcv_ghost.run import training as build

    with session.opened(config, world, writes=False) as opened:
        run = build.validation(config, world, opened)
        session.log_start(run.facts)
        result = run.run()
        if world.is_main:
            asked = config.evaluate
            validation.write_reports(result, run.class_names, asked.per_class, asked.confusion)
            session.log_line(validation.to_line(result))
            print(validation.to_json(result, run.facts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
