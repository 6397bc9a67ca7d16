"""What every run needs before it is created: run folder, log, device and the other ranks."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.config.keys import SystemConfig
from mindcv_ghost.errors import UserError, first_line
from mindcv_ghost.launch.cluster import join
from mindcv_ghost.launch.environment import device_id, leftover_variables
from mindcv_ghost.launch.processes import launcher_environment
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.logs import setup_logging
from mindcv_ghost.storage.run_folder import RunFolder, unwritable

__all__ = ["Session", "open_session", "take_device"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Where a run takes place.

    Args:
        device: Ascend, GPU or CPU; MindSpore has been set up for it.
        folder: the run folder, on rank 0 of a training; else None.
    """

    device: str
    folder: RunFolder | None


@contextmanager
def open_session(config: Config, world: World, writes: bool) -> Iterator[Session]:
    """Lock the run folder, set up the log and the device, and join the ranks; undo it at the end.

    Args:
        config: the run's configuration.
        world: this process among the ranks.
        writes: whether the run has a folder to write into.

    Raises:
        UserError: if the run folder, the device or the cluster isn't available.
    """
    # The folder comes first: a job that can't write should end before it waits for anything.
    folder_name = config.checkpoint.ckpt_save_dir if writes else None
    folder = RunFolder(folder_name) if folder_name is not None and world.rank == 0 else None
    try:
        logger = setup_logging(folder_name, world.rank)
    except OSError as error:  # on another host there may be no such folder, or another user's
        if folder is not None:
            folder.close()
        raise unwritable(folder_name or "", error) from error
    _redirect_mindcv_log(logger)
    for notice in config.notices:
        _logger.info("%s", notice)
    for warning in leftover_variables(os.environ, world):
        _logger.warning("%s", warning)
    try:
        device = _choose_device(config.system)
        take_device(config.system, device, world)
        join(world, device)
        yield Session(device, folder)
    except Exception as error:
        # The terminal gets it from run_script; the log of a job whose output is lost needs it, too.
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        text = str(error) if isinstance(error, UserError) else first_line(error)
        with contextlib.suppress(OSError):  # the folder may be what is gone
            _logger.error("%s%s", name, text, extra={"console": False})
        raise
    finally:
        if folder is not None:
            folder.close()


def _choose_device(system: SystemConfig) -> str:
    """Return Ascend, GPU or CPU; warn of what doesn't work or is slow with it."""
    device = compat.resolve_device(system.device_target)
    if system.device_target == "auto":
        for problem in filter(None, map(compat.driver_problem, ("Ascend", "GPU"))):
            _logger.warning("device_target auto chooses the %s: %s", device, problem)
    for warning in compat.version_warnings(compat.installed_versions(), device):
        _logger.warning("%s", warning)
    return device


def take_device(system: SystemConfig, device: str, world: World) -> tuple[int, int | None]:
    """Choose one of the host's devices for this rank, and set MindSpore's context for it.

    Args:
        system: the recipe's section.
        device: Ascend, GPU or CPU.
        world: this process among the ranks.

    Returns:
        The device's number, and how many devices this process can use (None for the CPU, which
        ranks share).

    Raises:
        LaunchError: if there are fewer devices than ranks, or DEVICE_ID names none.
    """
    count = compat.device_count(device)
    number = device_id(os.environ, world, device, count, launcher_environment())
    compat.set_up(device, number, system.mode, system.jit_level)
    return number, count


def _redirect_mindcv_log(logger: logging.Logger) -> None:
    """Send MindCV's warnings to this package's log: from rank 0 only, with the time."""
    mindcv_logger = logging.getLogger("mindcv")
    mindcv_logger.handlers = list(logger.handlers)
    mindcv_logger.propagate = False
    mindcv_logger.setLevel(logging.WARNING)
