"""What train and validate begin with: bad input is reported before MindSpore is imported."""

from __future__ import annotations

import os

from mindcv_ghost import compat
from mindcv_ghost.config import Config, load_config
from mindcv_ghost.launch.world import World, check_distribute, detect

__all__ = ["read_job"]


def read_job(argv: list[str], script: str) -> tuple[Config, World]:
    """Read the configuration and this process's place among the ranks, and check both.

    Args:
        argv: the command line without the program's and the command's name.
        script: "train" or "validate".

    Raises:
        UserError: if the command line, the launcher's variables or the installed versions don't
            allow the run.
    """
    config = load_config(argv, script=script)
    world = detect(os.environ)
    check_distribute(world, config.system.distribute)
    compat.refuse_unsupported_versions()
    return config, world
