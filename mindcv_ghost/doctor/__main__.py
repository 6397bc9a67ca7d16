"""``mindcv-ghost doctor`` and ``python -m mindcv_ghost.doctor``: see docs/doctor.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if not __package__:  # msrun runs this file as a script, so its folder is first on sys.path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mindcv_ghost.doctor import processes
from mindcv_ghost.doctor.diagnosis import diagnose, diagnose_without_launcher
from mindcv_ghost.doctor.options import help_text, parse_options
from mindcv_ghost.errors import LaunchError, tells_user_errors
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import detect, is_scheduler


def run_rank(argv: list[str]) -> int:
    """Run the checks in this process, which is a single one or a rank of a job."""
    options = parse_options(argv)
    world = detect(os.environ)
    if options.help:
        print(help_text())
        return 0
    if options.ranks not in (0, world.size):
        raise LaunchError(
            f"--ranks {options.ranks}: {world.launcher} has started {world.size} processes. Leave "
            "--ranks out under a launcher, or start the doctor without one."
        )
    return diagnose(options, world, argv)


@tells_user_errors
def start_processes(argv: list[str]) -> int:
    """Without a launcher: start the processes that run the checks, and wait for them."""
    options = parse_options(argv)
    if options.help:
        print(help_text())
        return 0
    if options.ranks > 1:
        return processes.run_ranks(options.ranks, argv)
    return processes.run_single(argv)


def run_with_bad_variables(argv: list[str], error: LaunchError) -> int:
    """Run the checks that are possible although the launcher's variables are contradictory."""
    options = parse_options(argv)
    if options.help:
        print(help_text())
        return 0
    return diagnose_without_launcher(options, error, argv)


def main(argv: list[str]) -> int:
    """Act as what the environment says: the first process, a rank, or msrun's scheduler."""
    if is_scheduler(os.environ):
        return run_script(run_rank, argv)
    try:
        world = detect(os.environ)
    except LaunchError as error:
        broken = error  # the name in `except` ends with the block
        return tells_user_errors(lambda words: run_with_bad_variables(words, broken))(argv)
    is_first = world.size == 1 and world.launcher == "single"
    if is_first and processes.IS_CHILD not in os.environ:
        return start_processes(argv)
    return run_script(run_rank, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
