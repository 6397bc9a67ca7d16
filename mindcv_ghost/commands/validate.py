"""``mindcv-ghost validate``: top-1 and top-5 of a checkpoint.

mindcv-ghost validate --config ghost_resnet50_ascend --data_dir DIR --ckpt_path FILE

The last line of standard output is one JSON object.
"""

from __future__ import annotations

from mindcv_ghost.commands.job import read_job
from mindcv_ghost.run.imports import importing_without_gc


def main(argv: list[str]) -> int:
    """Validate; returns the exit status."""
    config, world = read_job(argv, "validate")

    # MindSpore takes seconds to import: only after the checks above, which report bad input.
    with importing_without_gc():
        from mindcv_ghost.run.session import open_session
        from mindcv_ghost.run.validation import create_validation

    with open_session(config, world, writes=False) as session:
        validation = create_validation(config, world, session)
        evaluation = validation.run()
        if world.is_main:
            validation.report(evaluation)
    return 0
