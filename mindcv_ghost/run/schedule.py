"""The learning rates of a run's updates, and what a resumed run tells of a changed schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mindcv_ghost.config.keys import SchedulerConfig
from mindcv_ghost.engine.optimizers import create_schedule

__all__ = ["create_run_schedule", "describe_rates", "schedule_of_settings", "stays_low"]

# No run has more: this is a thousand epochs of ImageNet in batches of 128. A state could claim any
# number, and its schedule would fill the memory.
_MOST_UPDATES = 10_000_000


def create_run_schedule(
    scheduler: SchedulerConfig, epochs: int, updates_per_epoch: int
) -> list[float]:
    """Create the recipe's schedule: the learning rate of every update of the run.

    Args:
        scheduler: the recipe's section.
        epochs: of the whole run.
        updates_per_epoch: optimizer updates in an epoch.

    Raises:
        ConfigError: if MindCV rejects the settings.
    """
    return create_schedule(
        updates_per_epoch,
        epochs,
        scheduler=scheduler.scheduler,
        lr=scheduler.lr,
        min_lr=scheduler.min_lr,
        warmup_epochs=scheduler.warmup_epochs,
        warmup_factor=scheduler.warmup_factor,
        decay_epochs=scheduler.decay_epochs,
        decay_rate=scheduler.decay_rate,
        milestones=list(scheduler.multi_step_decay_milestones),
        lr_epoch_stair=scheduler.lr_epoch_stair,
        num_cycles=scheduler.num_cycles,
        cycle_decay=scheduler.cycle_decay,
    )


def schedule_of_settings(settings: Mapping[str, Any], updates_per_epoch: int) -> list[float]:
    """Create the schedule that a state's settings had planned.

    Args:
        settings: of the state; keys that its release didn't have get their defaults.
        updates_per_epoch: of the run that resumes, so that both schedules count the same updates.

    Raises:
        ValueError: if it would be longer than that of any run.
    """
    names = {row.name for row in dataclasses.fields(SchedulerConfig)} & settings.keys()
    scheduler = SchedulerConfig(**{name: settings[name] for name in names})
    if max(settings["epoch_size"] * updates_per_epoch, scheduler.num_cycles) > _MOST_UPDATES:
        raise ValueError(f"epoch_size {settings['epoch_size']}")
    return create_run_schedule(scheduler, settings["epoch_size"], updates_per_epoch)


def describe_rates(
    schedule: Sequence[float], done: int, epochs_done: int, updates_per_epoch: int
) -> str:
    """Describe the learning rates that a schedule has for the rest of a run.

    Args:
        schedule: learning rate of every update of the run.
        done: updates that are done; skipped ones don't count.
        epochs_done: whole epochs that are done.
        updates_per_epoch: of the schedule.

    >>> describe_rates([0.2, 0.1, 0.05, 0.02], 2, 2, 1)
    'lr 0.05 from epoch 3 on, 0.02 at the end of epoch 4'
    >>> describe_rates([0.2, 0.1], 2, 2, 1)
    'it had ended after epoch 2 with lr 0.1'
    >>> describe_rates([0.1, 0.1, 0.1], 1, 1, 1)
    'lr 0.1 to the end of epoch 3'
    """
    epochs, left = len(schedule) // updates_per_epoch, schedule[done:]
    if epochs_done >= epochs or not left:
        return f"it had ended after epoch {epochs} with lr {schedule[-1]:.4g}"
    if min(left) == max(left):
        return f"lr {left[0]:.4g} to the end of epoch {epochs}"
    first = f"lr {left[0]:.4g} from epoch {epochs_done + 1} on"
    between = f", up to {max(left):.4g}" if max(left) > max(left[0], left[-1]) else ""
    return f"{first}{between}, {left[-1]:.4g} at the end of epoch {epochs}"


def stays_low(before: Sequence[float], now: Sequence[float], done: int) -> bool:
    """Tell whether a longer run only continues with the lowest rate of a schedule that has fallen.

    Args:
        before: the schedule that the run had planned.
        now: the schedule of the longer run.
        done: updates that are done.

    >>> stays_low([0.2, 0.1], [0.2, 0.1, 0.0, 0.0], 2), stays_low([0.2, 0.2], [0.2] * 4, 2)
    (True, False)
    """
    left = set(now[done:])
    longer, fell = len(now) > len(before), min(before) < max(before)
    return longer and fell and len(left) == 1 and max(left) <= min(before)
