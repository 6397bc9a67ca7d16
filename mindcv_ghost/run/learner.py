"""From a network to the step that trains it, by what the recipe says of precision and optimizer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mindcv
from mindspore import nn

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import StepSettings
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer, create_schedule
from mindcv_ghost.engine.overflow import StatusCheck, ValueCheck
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, TrainStep, mixed_precision
from mindcv_ghost.engine.trainer import TrainerSettings, updates_per_epoch
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.kernels import make_all_finite, make_momentum
from mindcv_ghost.launch.world import World
from mindcv_ghost.layers import compute_in_parts, convert_sync_batch_norm
from mindcv_ghost.run.acceleration import compiler, speed_up

__all__ = ["Learner", "create_learner", "create_loss", "fit_to_device", "mixed", "trainer_settings"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """What trains a network.

    Args:
        step: the step, with network, optimizer and loss scale.
        schedule: learning rate of every update.
        ema: averaged weights, or None.
        compile: ``compile(cell, *inputs)`` tells whether it found the graph in a cache.
    """

    step: TrainStep
    schedule: list[float]
    ema: EmaWeights | None
    compile: Callable[..., bool]


def create_learner(
    config: Config,
    world: World,
    device: str,
    network: nn.Cell,
    collectives: Collectives,
    steps_per_epoch: int,
) -> Learner:
    """Put together what trains a network; every rank has to call it.

    Args:
        config: what was asked for.
        world: this process among its job's.
        device: Ascend, GPU or CPU.
        network: is changed in place, and gets rank 0's weights.
        collectives: to the other ranks.
        steps_per_epoch: batches an epoch, of which the schedule is made.

    Raises:
        ConfigError: if ``amp_cast_list`` names no cell of MindSpore's.
    """
    fit_to_device(network, device)
    if config.train.sync_bn:
        network = convert_sync_batch_norm(network, world.size)
    library = speed_up(network, config, config.amp.amp_level, world, device)
    collectives.broadcast_parameters(network)

    accumulation = config.train.gradient_accumulation_steps
    schedule = _schedule(config, updates_per_epoch(steps_per_epoch, accumulation))
    ema = EmaWeights(network, config.train.ema_decay) if config.train.ema else None
    optimizer = create_optimizer(network, _optimizer_settings(config), schedule, device)
    step = TrainStep(
        NetworkWithLoss(
            mixed(network, config.amp.amp_level, config),
            create_loss(config),
            exact=device == "CPU" and config.loss.loss == "CE",
        ),
        optimizer,
        _loss_scale(config),
        clip_norm=config.train.clip_value if config.train.clip_grad else None,
        ema=ema,
        accumulation_steps=accumulation,
        ranks=world.size,
        check=_overflow_check(config, device, library),
        fused=make_momentum(library, optimizer),
    )
    return Learner(step, schedule, ema, compiler(config, device, collectives, library, schedule))


def fit_to_device(network: nn.Cell, device: str) -> None:
    """Have a device compute what it isn't known to in another way; parameters stay the same."""
    changed = compute_in_parts(network) if device == "Ascend" else 0
    if changed:
        _logger.info(
            "%d depthwise convolutions of several maps each are computed in parts", changed
        )


def mixed(network: nn.Cell, level: str, config: Config) -> nn.Cell:
    """Let a network compute in the precision of ``level``, with the recipe's own list of cells."""
    classes = []
    for name in config.amp.cast_classes:
        if not isinstance(getattr(nn, name, None), type):
            raise ConfigError(f"amp_cast_list: mindspore.nn has no cell {name!r}")
        classes.append(getattr(nn, name))
    return mixed_precision(network, level, tuple(classes))


def create_loss(config: Config) -> nn.Cell:
    """The recipe's loss."""
    loss = config.loss
    return mindcv.create_loss(
        name=loss.loss,
        reduction=loss.reduction,
        label_smoothing=loss.label_smoothing,
        aux_factor=loss.aux_factor,
    )


def _schedule(config: Config, updates: int) -> list[float]:
    lr = config.scheduler
    return create_schedule(
        updates,
        config.train.epoch_size,
        scheduler=lr.scheduler,
        lr=lr.lr,
        min_lr=lr.min_lr,
        warmup_epochs=lr.warmup_epochs,
        warmup_factor=lr.warmup_factor,
        decay_epochs=lr.decay_epochs,
        decay_rate=lr.decay_rate,
        milestones=list(lr.multi_step_decay_milestones),
        lr_epoch_stair=lr.lr_epoch_stair,
        num_cycles=lr.num_cycles,
        cycle_decay=lr.cycle_decay,
    )


def _optimizer_settings(config: Config) -> OptimizerSettings:
    opt = config.optimizer
    return OptimizerSettings(
        opt=opt.opt,
        momentum=opt.momentum,
        weight_decay=opt.weight_decay,
        nesterov=opt.use_nesterov or opt.opt == "nesterov",
        weight_decay_filter=opt.weight_decay_filter,
        layer_decay=opt.layer_decay,
        eps=opt.eps,
    )


def _loss_scale(config: Config) -> LossScale:
    amp = config.amp
    # "auto" leaves the choice to mindspore.Model, which scales dynamically where float16 is used.
    kind = amp.loss_scale_type.lower()
    dynamic = kind == "dynamic" or (kind == "auto" and amp.amp_level != "O0")
    return LossScale(amp.loss_scale, dynamic, amp.drop_overflow_update)


def _overflow_check(config: Config, device: str, library: str) -> ValueCheck | StatusCheck:
    """What tells an overflow on this device; see ``engine/overflow.py``."""
    saturates = compat.saturates(device)
    if saturates and _loss_scale(config).skips:
        return StatusCheck()
    if saturates:
        # Without skipping, an update that is found to overflow ends the run. The register's flag is
        # no reason to: it may stand for one value that was cut to the largest number.
        _logger.warning(
            "on this device an overflow leaves no infinity and a NaN becomes 0, so a run that goes "
            "wrong is noticed late: give --drop_overflow_update true to have overflows counted and "
            "their updates skipped"
        )
    return ValueCheck(make_all_finite(library), saturates)


def trainer_settings(config: Config, device: str) -> TrainerSettings:
    """How the recipe wants the training loop on a device."""
    sink = config.train.dataset_sink_mode and config.system.mode == 0 and device != "CPU"
    if config.train.dataset_sink_mode and not sink and "dataset_sink_mode" in config.explicit:
        _logger.info("dataset_sink_mode is off: %s in this mode has no queue to sink to", device)
    return TrainerSettings(
        epochs=config.train.epoch_size,
        val_interval=config.system.val_interval,
        graph_mode=config.system.mode == 0,
        sink=sink,
        steps=StepSettings(
            log_interval=config.system.log_interval,
            save_every_steps=config.checkpoint.save_every_steps,
            save_every_minutes=config.checkpoint.save_every_minutes,
            nan_patience=config.train.nan_patience,
            # The CPU computes while it is called. Devices run behind; two batches keep them busy.
            in_flight=0 if device == "CPU" else 2,
            report_folder=Path(config.checkpoint.ckpt_save_dir),
        ),
    )
