"""Optimizers and schedules of MindCV on the CPU."""

from __future__ import annotations

import logging

import mindcv
import numpy as np
import pytest
from mindspore import nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.engine.optimizers import (
    OptimizerSettings,
    create_optimizer,
    create_schedule,
    layer_decay_groups,
)
from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep
from mindcv_ghost.errors import ConfigError

from .networks import CLASSES, FEATURES, CrossEntropy, Linear, batch

OPTIMIZERS = ["sgd", "momentum", "adam", "adamw", "lion", "rmsprop", "adagrad", "nadam", "adan"]
SCHEDULES = {
    "constant": {},
    "cosine_decay": {"decay_epochs": 5, "warmup_epochs": 1},
    "exponential_decay": {},
    "polynomial_decay": {},
    "step_decay": {"decay_epochs": 2},
    "multi_step_decay": {"milestones": [2, 4]},
    "one_cycle": {"warmup_epochs": 0},
    "cyclic": {"warmup_epochs": 0},
}


@pytest.mark.parametrize("weight_decay_filter", ["disable", "auto", "norm_and_bias"])
@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(opt, weight_decay_filter):
    network = nn.Dense(FEATURES, CLASSES)
    settings = OptimizerSettings(opt, weight_decay=1e-4, weight_decay_filter=weight_decay_filter)
    optimizer = create_optimizer(network, settings, [0.02] * 9, "CPU")
    step = TrainStep(NetworkWithLoss(network, CrossEntropy()), optimizer)
    x, y = batch(16)
    losses = [float(step(x, y)[0].asnumpy()) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()


def test_lamb_is_refused_on_the_cpu():
    with pytest.raises(ConfigError, match="opt lamb: MindSpore has it on Ascend and GPU only"):
        create_optimizer(Linear(), OptimizerSettings("lamb"), [0.1], "CPU")


def test_nesterov_is_mindcv_s_momentum_except_on_the_cpu():
    settings = OptimizerSettings("momentum", nesterov=True)
    assert isinstance(create_optimizer(Linear(), settings, [0.1], "CPU"), nn.SGD)
    assert isinstance(create_optimizer(Linear(), settings, [0.1], "Ascend"), nn.Momentum)
    plain = OptimizerSettings("momentum")
    assert isinstance(create_optimizer(Linear(), plain, [0.1], "CPU"), nn.Momentum)


def test_layer_decay_gives_early_layers_a_smaller_rate():
    network = mindcv.create_model("ghost_resnet18", num_classes=2)
    settings = OptimizerSettings("adamw", weight_decay=0.05, layer_decay=0.5)
    groups = layer_decay_groups(network, settings, 0.5, [0.1, 0.2])
    rates = {p.name: group["lr"] for group in groups for p in group["params"]}
    decays = {p.name: group["weight_decay"] for group in groups for p in group["params"]}
    names = [p.name for p in network.trainable_params()]
    assert sorted(rates) == sorted(names)
    assert rates["classifier.weight"] == [0.1, 0.2]
    assert rates[names[0]][1] == pytest.approx(0.2 * 0.5**9)  # stem, 8 blocks, head
    assert (decays["classifier.weight"], decays["classifier.bias"]) == (0.05, 0.0)
    assert create_optimizer(network, settings, [0.1, 0.2], "CPU").is_group_lr


class CountingFloat(float):
    """A number that counts its powers."""

    powers = 0

    def __pow__(self, exponent):
        type(self).powers += 1
        return float(self) ** exponent


def test_layer_decay_computes_one_power_for_each_group_however_long_the_schedule_is():
    network = mindcv.create_model("ghost_resnet18", num_classes=2)
    schedule = [0.1 / (n + 1) for n in range(1000)]
    decay = CountingFloat(0.75)
    groups = layer_decay_groups(network, OptimizerSettings("adamw"), decay, schedule)
    assert CountingFloat.powers == len(groups) == 10  # stem, 8 blocks, head
    assert groups[0]["lr"] == [lr * 0.75**9 for lr in schedule]


@pytest.mark.parametrize("scheduler", SCHEDULES)
def test_every_schedule_has_a_value_for_each_update(scheduler):
    schedule = create_schedule(7, 5, scheduler=scheduler, lr=0.1, **SCHEDULES[scheduler])
    assert len(schedule) == 35
    assert max(schedule) <= 0.1 + 1e-9
    assert min(schedule) >= 0


def test_a_warm_up_longer_than_the_run_is_truncated():
    schedule = create_schedule(
        4, 2, scheduler="cosine_decay", lr=0.1, warmup_epochs=5, decay_epochs=5
    )
    assert len(schedule) == 8
    assert schedule == sorted(schedule)


def test_mindcvs_factories_do_not_repeat_our_notices(caplog):
    loggers = [logging.getLogger(f"mindcv.{name}") for name in ("scheduler", "optim")]
    levels = [logger.level for logger in loggers]
    settings = OptimizerSettings("momentum", weight_decay_filter="auto", layer_decay=0.5)
    with caplog.at_level("WARNING"):
        create_schedule(4, 2, scheduler="constant", lr=0.1, warmup_epochs=1, lr_epoch_stair=True)
        create_optimizer(Linear(), settings, [0.1], "CPU")
        assert [logger.level for logger in loggers] == levels
        assert caplog.messages == []
        # What is kept away: MindCV warns of a constant rate's decay_epochs, too.
        mindcv.create_scheduler(4, "constant", num_epochs=2)
    assert "warmup_epochs + decay_epochs > num_epochs" in caplog.text


def test_settings_that_mindcv_rejects_are_a_config_error():
    with pytest.raises(ConfigError, match="scheduler 'one_cycle' can't be built .*warmup_epochs"):
        create_schedule(4, 2, scheduler="one_cycle", lr=0.1, warmup_epochs=1)
