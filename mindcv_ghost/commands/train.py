"""``mindcv-ghost train``: train a model of MindCV or mindcv_ghost by a recipe.

mindcv-ghost train --config ghost_resnet50_digits
mpirun -n 8 mindcv-ghost train --config ghost_resnet50_ascend --data_dir DIR
"""

from __future__ import annotations

import os

from mindcv_ghost import compat
from mindcv_ghost.config import load_config
from mindcv_ghost.launch.world import check_distribute, detect
from mindcv_ghost.run.imports import importing_without_gc


def main(argv: list[str]) -> int:
    """Train; returns the exit status."""
    config = load_config(argv, script="train")
    world = detect(os.environ)
    check_distribute(world, config.system.distribute)
    compat.refuse_unsupported_versions()

    # MindSpore takes seconds to import: only after the checks above, which report bad input.
    with importing_without_gc():
        from mindcv_ghost.run.session import open_session
        from mindcv_ghost.run.training import create_training

    with open_session(config, world, writes=True) as session:
        training = create_training(config, world, session)
        summary = training.run()
    return summary.status
