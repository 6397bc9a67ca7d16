"""The schedule of a longer run, and what is told of it."""

from __future__ import annotations

import dataclasses

import pytest

from mindcv_ghost.config.keys import KEYS, SchedulerConfig
from mindcv_ghost.run.schedule import (
    create_run_schedule,
    describe_rates,
    schedule_of_settings,
    stays_low,
)

SCHEDULERS = KEYS["scheduler"].type.choices
UPDATES = 5


def section(scheduler: str, epochs: int) -> SchedulerConfig:
    rises_itself = scheduler in ("one_cycle", "cyclic")
    return SchedulerConfig(
        scheduler,
        lr=0.5,
        warmup_epochs=0 if rises_itself else 1,
        decay_epochs=epochs - 1 if scheduler.endswith("cosine_decay") else 2,
        multi_step_decay_milestones=(2, 3),
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_has_a_longer_schedule_that_a_state_can_be_compared_with(scheduler):
    short = create_run_schedule(section(scheduler, 3), 3, UPDATES)
    longer = create_run_schedule(section(scheduler, 6), 6, UPDATES)
    settings = {**dataclasses.asdict(section(scheduler, 3)), "epoch_size": 3, "model": "any"}
    assert schedule_of_settings(settings, UPDATES) == short
    assert (len(short), len(longer)) == (3 * UPDATES, 6 * UPDATES)
    before = describe_rates(short, 3 * UPDATES, 3, UPDATES)
    now = describe_rates(longer, 3 * UPDATES, 3, UPDATES)
    assert before == f"it had ended after epoch 3 with lr {short[-1]:.4g}"
    if scheduler == "constant":
        assert now == "lr 0.5 to the end of epoch 6"
    else:
        assert now.startswith(f"lr {longer[3 * UPDATES]:.4g} from epoch 4 on")
        assert now.endswith(f", {longer[-1]:.4g} at the end of epoch 6")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_these_longer_schedules_begin_with_the_shorter_one(scheduler):
    """As docs/reliability.md says: then an extended run is a whole one."""
    settings = section(scheduler, 3)
    short = create_run_schedule(settings, 3, UPDATES)
    longer = create_run_schedule(settings, 6, UPDATES)
    another_beginning = scheduler in ("polynomial_decay", "one_cycle", "cyclic")
    assert (longer[: len(short)] == short) == (not another_beginning)


def test_a_rate_that_rises_in_between_is_told():
    assert describe_rates([0.1, 0.2, 0.4, 0.1], 1, 1, 1) == (
        "lr 0.2 from epoch 2 on, up to 0.4, 0.1 at the end of epoch 4"
    )


def test_a_run_that_skipped_updates_has_ended_all_the_same():
    assert describe_rates([0.3, 0.2, 0.1], 2, 3, 1) == "it had ended after epoch 3 with lr 0.1"


def test_a_cosine_whose_decay_does_not_follow_the_longer_run_stays_low():
    settings = dataclasses.replace(section("cosine_decay", 3), warmup_epochs=0)
    short = create_run_schedule(settings, 2, UPDATES)
    longer = create_run_schedule(settings, 4, UPDATES)
    followed = create_run_schedule(dataclasses.replace(settings, decay_epochs=4), 4, UPDATES)
    done = 2 * UPDATES
    assert stays_low(short, longer, done)
    assert not stays_low(short, followed, done)
    assert not stays_low(short, short, done)
    assert not stays_low([0.5] * done, [0.5] * 2 * done, done)


@pytest.mark.parametrize("claim", [{"epoch_size": 2**31}, {"num_cycles": 2**31}])
def test_a_state_that_claims_an_endless_schedule_is_not_believed(claim):
    settings = {**dataclasses.asdict(section("cosine_decay", 3)), "epoch_size": 3, **claim}
    with pytest.raises(ValueError, match="epoch_size"):
        schedule_of_settings(settings, UPDATES)
