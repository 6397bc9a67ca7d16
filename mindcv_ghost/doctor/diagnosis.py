"""One run of the doctor in this process: open the exchange, run the checks, print the report."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mindcv_ghost.compat import installed_versions
from mindcv_ghost.doctor.checks import TrialChecks, light_checks
from mindcv_ghost.doctor.exchange import FileExchange, SingleRank, exchange_folder
from mindcv_ghost.doctor.options import Options
from mindcv_ghost.doctor.report import BROKEN, CheckResult, Report
from mindcv_ghost.doctor.runner import Check, CheckRunner
from mindcv_ghost.doctor.watchdog import Watchdog
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.cluster import barrier
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.version import __version__

__all__ = ["diagnose", "diagnose_without_launcher", "finish", "open_exchange", "printer"]


def diagnose(options: Options, world: World, argv: Sequence[str]) -> int:
    """Run all checks; every rank has to call this, and rank 0 prints.

    Args:
        options: the command line.
        world: this process's place in the job.
        argv: the command line as it was given.

    Returns:
        The exit status, the same on all ranks.

    Raises:
        LaunchError: if ranks on several hosts have no common folder.
    """
    with contextlib.ExitStack() as stack:
        exchange, folder = open_exchange(world, options)
        stack.callback(exchange.remove)
        report = Report(_facts(options, world, argv))
        watchdog = Watchdog(world.rank, world.size, folder, options.json, report.facts)
        stack.callback(watchdog.close)
        show = printer(options, world)
        runner = CheckRunner(world, exchange, watchdog, report, show, options.patience)
        runner.run(light_checks(options, world))
        if not options.light:
            runner.run(TrialChecks(options, world, stack).checks())
        if not runner.ranks_are_missing:
            barrier("the doctor's end")  # after this no rank reads the exchange
    return finish(options, world, report, runner.ranks_are_missing)


def diagnose_without_launcher(options: Options, error: LaunchError, argv: Sequence[str]) -> int:
    """Run the light checks where a launcher's variables contradict each other.

    Args:
        options: the command line.
        error: the contradiction.
        argv: the command line as it was given.

    Returns:
        The exit status.
    """
    world = World()
    report = Report(_facts(options, world, argv))
    with contextlib.closing(Watchdog(0, 1, None, options.json, report.facts)) as watchdog:
        runner = CheckRunner(world, SingleRank(), watchdog, report, printer(options, world))
        remedy = "start all processes with one launcher, or unset these variables"
        broken = CheckResult("launcher", BROKEN, str(error), remedy, blocks=True)
        runner.run(
            [
                Check("launcher", lambda: broken) if each.what == "launcher" else each
                for each in light_checks(options, world)
            ]
        )
    return finish(options, world, report, ranks_are_missing=False)


def open_exchange(world: World, options: Options) -> tuple[SingleRank | FileExchange, Path | None]:
    """Open the exchange of results; every rank has to call this.

    Args:
        world: this process's place in the job.
        options: the command line, with ``ckpt_save_dir``.

    Returns:
        The exchange, and its folder (None for a single process).

    Raises:
        LaunchError: if rank 0 can't create the folder, or another rank doesn't see it.
    """
    if world.size == 1:
        return SingleRank(), None
    folder = exchange_folder(world, os.environ, options.config.checkpoint.ckpt_save_dir)
    exchange = FileExchange(folder, world)
    if world.is_main:
        try:
            exchange.prepare()
        except OSError as error:
            raise LaunchError(
                f"the folder {folder}, where the ranks exchange results, can't be created "
                f"({error.strerror}). Choose a folder that all hosts share with --ckpt_save_dir."
            ) from error
    barrier("the doctor's exchange")
    if not folder.is_dir():
        raise LaunchError(
            f"the ranks are on several hosts and exchange results in {folder}, which doesn't exist "
            f"on rank {world.rank}'s host. Choose a folder that all hosts share with "
            "--ckpt_save_dir."
        )
    return exchange, folder


def printer(options: Options, world: World) -> Callable[[str], None]:
    """Return a function that prints a line for people; ranks other than 0 print nothing."""

    def show(line: str) -> None:
        if world.is_main:
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    return show


def finish(options: Options, world: World, report: Report, ranks_are_missing: bool) -> int:
    """Print the rest of the report.

    Args:
        options: the command line.
        world: this process's place in the job.
        report: with all results.
        ranks_are_missing: whether some ranks are still in a check.

    Returns:
        The exit status.

    Raises:
        SystemExit: with status 1, if ranks are missing.
    """
    if world.is_main:
        printer(options, world)(report.closing())
        if options.json:
            print(report.as_json(), flush=True)
    if ranks_are_missing:
        # The missing ranks will never end together with the others. If rank 0 is one of them, its
        # watchdog process needs a moment to print.
        time.sleep(0 if world.is_main else 8)
        raise SystemExit(1)
    return report.status


def _facts(options: Options, world: World, argv: Sequence[str]) -> dict[str, str]:
    from mindcv_ghost.storage.provenance import source_commit

    names = {"python": "Python", "mindspore": "MindSpore", "mindcv": "MindCV"}
    names |= {"numpy": "NumPy", "pillow": "Pillow"}
    versions = installed_versions().items()
    commit = source_commit() if world.is_main else None
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''}"
    config = options.config
    return {
        "mindcv-ghost": __version__ + (f", commit {commit}" if commit else ""),
        "versions": ", ".join(f"{names[key]} {value or '-'}" for key, value in versions),
        "platform": f"{platform.platform()}, {describe_hardware()}",
        "device": f"{config.system.device_target}, {ranks}, launcher {world.launcher}",
        "recipe": Path(config.path).name if config.path else "none",
        "command": shlex.join(["python", "-m", "mindcv_ghost.doctor", *argv]),
    }
