"""What surrounds a run: its folder, log, device and ranks; and what is said about it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.engine.trainer import Summary
from mindcv_ghost.launch.cluster import join
from mindcv_ghost.launch.environment import device_id, leftover_variables
from mindcv_ghost.launch.processes import launcher_environment
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.logs import setup_logging
from mindcv_ghost.report.progress import format_duration
from mindcv_ghost.storage.run_folder import RunFolder

__all__ = ["Session", "log_end", "log_line", "log_start", "opened"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Where a run takes place.

    Args:
        device: Ascend, GPU or CPU, set up.
        folder: the run folder, on rank 0 of a training; else None.
    """

    device: str
    folder: RunFolder | None


@contextmanager
def opened(config: Config, world: World, writes: bool) -> Iterator[Session]:
    """Open the log, set the device up and join the other ranks; undo it all at the end.

    Args:
        config: what was asked for.
        world: this process among its job's.
        writes: whether the run has a folder to write into.

    Raises:
        UserError: if folder, device or cluster can't be had.
    """
    # The folder comes first: a job that can't write should end before it waits for anything.
    folder = RunFolder(config.checkpoint.ckpt_save_dir) if writes and world.rank == 0 else None
    _share_log(setup_logging(config.checkpoint.ckpt_save_dir if writes else None, world.rank))
    for notice in config.notices:
        _logger.info("%s", notice)
    for warning in leftover_variables(os.environ, world):
        _logger.warning("%s", warning)
    device = compat.resolve_device(config.system.device_target)
    if config.system.device_target == "auto":
        for problem in filter(None, map(compat.driver_problem, ("Ascend", "GPU"))):
            _logger.warning("device_target auto takes the %s: %s", device, problem)
    for warning in compat.check_versions(compat.installed_versions(), device):
        _logger.warning("%s", warning)
    count = compat.device_count(device)
    number = device_id(os.environ, world, device, count, launcher_environment())
    compat.set_up(device, number, config.system.mode, config.system.jit_level)
    try:
        join(world, device)
        yield Session(device, folder)
    finally:
        if folder is not None:
            folder.close()


def _share_log(logger: logging.Logger) -> None:
    """Let MindCV's warnings go where ours go: on rank 0 once, with a time, not on every rank."""
    theirs = logging.getLogger("mindcv")
    theirs.handlers = list(logger.handlers)
    theirs.propagate = False
    theirs.setLevel(logging.WARNING)


def log_start(facts: dict) -> None:
    """Say in a few lines what is about to run."""
    ranks = f"{facts['ranks']} x {facts['device']}"
    launcher = "" if facts["launcher"] == "single" else f" ({facts['launcher']})"
    versions = facts["versions"]
    lines = [
        f"{facts['model']}: {facts['parameters']:,} parameters, {facts['num_classes']} classes",
        f"{ranks}{launcher}, {facts['mode']} mode, MindSpore {versions['mindspore']}, "
        f"MindCV {versions['mindcv']}",
    ]
    if "steps_per_epoch" in facts:
        val = facts["val_images"]
        lines.append(
            f"{facts['train_images']:,} training images, "
            f"{'no' if val is None else format(val, ',')} validation images, "
            f"{facts['steps_per_epoch']} steps an epoch, "
            f"global batch {facts['global_batch_size']}"
        )
    for line in lines:
        _logger.info("%s", line)


def log_line(text: str) -> None:
    """Write one line to the log."""
    _logger.info("%s", text)


def log_end(session: Session, facts: dict, summary: Summary) -> None:
    """Say what came out and where it lies; complete ``run.json``."""
    if session.folder is None:
        return
    if summary.stopped_by:
        facts = dict(facts, stopped_by=signal.Signals(summary.stopped_by).name)
    facts = dict(
        facts,
        epochs=summary.epochs,
        best_top1=summary.best_top1,
        best_epoch=summary.best_epoch,
        seconds=round(summary.seconds, 3),
        compile_seconds=round(summary.compile_seconds, 3),
    )
    session.folder.write_facts(facts)
    _logger.info(
        "%d epochs in %s, %.1f s of it compilation",
        summary.epochs,
        format_duration(summary.seconds),
        summary.compile_seconds,
    )
    if summary.stopped_by:
        _logger.info("everything is saved; the same command with --resume auto goes on from here")
    if summary.best_top1 is not None:
        _logger.info("best top1 %.2f %% in epoch %d", summary.best_top1, summary.best_epoch)
    _logger.info("run folder: %s", session.folder.path)
