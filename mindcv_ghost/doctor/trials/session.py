"""What all trials share: configuration, ranks, device and collectives."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mindcv_ghost.config import Config
from mindcv_ghost.doctor.trials.batches import BatchShape
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.logs import LOGGER_NAME

__all__ = ["TrialSession", "open_trial_session"]

_CLASSES = 10  # where the recipe doesn't say


@dataclass(frozen=True)
class TrialSession:
    """What all trials share.

    Args:
        config: from ``options.trial_config``.
        world: this process's place in the job.
        device: Ascend, GPU or CPU.
        steps: training steps.
        collectives: to the other ranks.
        log: messages that the package logs.
    """

    config: Config
    world: World
    device: str
    steps: int
    collectives: Collectives
    log: list[str]

    @property
    def shape(self) -> BatchShape:
        """Shape of a rank's batch."""
        side = self.config.augment.image_resize
        height, width = side if isinstance(side, tuple) else (side, side)
        copies = max(1, self.config.augment.aug_splits)
        return BatchShape(
            self.config.dataset.batch_size * copies,
            self.config.model.in_channels,
            height,
            width,
            self.config.model.num_classes or _CLASSES,
            one_hot=self.config.loss.loss in ("BCE", "asl_multi_label"),
        )


def open_trial_session(config: Config, world: World, device: str, steps: int) -> TrialSession:
    """Create the session in a rank that has joined the cluster, and capture the package's log.

    Args:
        config: from ``options.trial_config``.
        world: this process's place in the job.
        device: Ascend, GPU or CPU.
        steps: training steps.
    """
    collectives = Collectives(world.rank, world.size)
    return TrialSession(config, world, device, steps, collectives, _capture_log())


def _capture_log() -> list[str]:
    """Redirect the package's log from the terminal into a list, and return the list."""
    lines: list[str] = []

    class ListHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    for name in (LOGGER_NAME, "mindcv"):
        logger = logging.getLogger(name)
        logger.handlers = [ListHandler()]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == LOGGER_NAME else logging.WARNING)
    return lines
