"""``mindcv-ghost train``: train a model of MindCV or mindcv_ghost by a recipe.

mindcv-ghost train --config ghost_resnet50_digits
mpirun -n 8 mindcv-ghost train --config ghost_resnet50_ascend --data_dir DIR
"""

from __future__ import annotations

from mindcv_ghost.commands.job import read_job
from mindcv_ghost.run.imports import importing_without_gc


def main(argv: list[str]) -> int:
    """Train; returns the exit status."""
    config, world = read_job(argv, "train")

    # MindSpore takes seconds to import: only after the checks above, which report bad input.
    with importing_without_gc():
        from mindcv_ghost.run.session import open_session
        from mindcv_ghost.run.training import create_training

    with open_session(config, world, writes=True) as session:
        training = create_training(config, world, session)
        summary = training.run()
    return summary.status
