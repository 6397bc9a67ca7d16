"""``python -m mindcv_ghost.doctor``: see ``--help``, and docs/doctor.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if not __package__:  # msrun runs files, and this one's folder is no place to look for modules
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mindcv_ghost.doctor import rounds, starting, usage
from mindcv_ghost.errors import LaunchError, tells_user_errors
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import detect, is_scheduler


def main(argv: list[str]) -> int:
    """Examine this machine; each rank of a job calls it."""
    asked = usage.read(argv)
    world = detect(os.environ)
    if asked.help:
        print(usage.HELP)
        return 0
    if asked.ranks not in (0, world.size):
        raise LaunchError(
            f"--ranks {asked.ranks}: {world.launcher} has started {world.size} processes. Leave "
            "--ranks out under a launcher, or start the doctor without one."
        )
    return rounds.examine(asked, world, argv)


def main_outside(argv: list[str]) -> int:
    """Examine what can be examined where a launcher's variables make no sense."""
    asked = usage.read(argv)
    if asked.help:
        print(usage.HELP)
        return 0
    try:
        detect(os.environ)
    except LaunchError as error:
        return rounds.examine_outside(asked, error, argv)
    raise AssertionError("the variables made no sense a moment ago")


@tells_user_errors
def begin(argv: list[str]) -> int:
    """Without a launcher: start as many processes as are asked for, and wait for them."""
    asked = usage.read(argv)
    if asked.help:
        print(usage.HELP)
        return 0
    return starting.start(asked.ranks, argv) if asked.ranks > 1 else starting.alone(argv)


def start(argv: list[str]) -> int:
    """Become what the environment says: a single process, a rank, or msrun's scheduler."""
    if is_scheduler(os.environ):
        return run_script(main, argv)
    try:
        world = detect(os.environ)
        if world.size == 1 and world.launcher == "single" and starting.INNER not in os.environ:
            return begin(argv)
    except LaunchError:
        return tells_user_errors(main_outside)(argv)
    return run_script(main, argv)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
