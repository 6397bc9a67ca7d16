"""What trains a network: the step, its optimizer and schedule, and the settings of the loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mindcv
from mindspore import nn

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.config.keys import (
    AmpConfig,
    DistillConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
)
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import Compile
from mindcv_ghost.engine.distillation import Distillation, SoftLoss, Teacher
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import StepSettings
from mindcv_ghost.engine.losses import JsdLoss
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.overflow import StatusCheck, ValueCheck
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, TrainStep, mixed_precision
from mindcv_ghost.engine.trainer import TrainerSettings, updates_per_epoch
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.kernels import make_all_finite, make_loss, make_momentum
from mindcv_ghost.launch.world import World
from mindcv_ghost.layers import compute_in_parts, convert_sync_batch_norm
from mindcv_ghost.run.acceleration import create_compiler, create_reducers, use_native_kernels
from mindcv_ghost.run.parts import graph_settings
from mindcv_ghost.run.schedule import create_run_schedule

__all__ = [
    "Learner",
    "adapt_to_device",
    "apply_mixed_precision",
    "create_learner",
    "create_loss",
    "trainer_settings",
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """What trains a network.

    Args:
        step: the training step, with network, optimizer and loss scale.
        schedule: learning rate of every update of the run.
        updates_per_epoch: optimizer updates in an epoch.
        ema: averaged weights, or None.
        compile: ``compile(cell, *inputs) -> bool``: whether the graph came from the cache.
    """

    step: TrainStep
    schedule: list[float]
    updates_per_epoch: int
    ema: EmaWeights | None
    compile: Compile


def create_learner(
    config: Config,
    world: World,
    device: str,
    network: nn.Cell,
    collectives: Collectives,
    steps_per_epoch: int,
    teacher: Teacher | None = None,
) -> Learner:
    """Create what trains a network; every rank has to call it.

    Args:
        config: the run's configuration.
        world: this process among the ranks.
        device: Ascend, GPU or CPU.
        network: changed in place; all ranks get rank 0's weights.
        collectives: to the other ranks.
        steps_per_epoch: batches in an epoch.
        teacher: whose targets the loss has as well; None for labels alone.

    Raises:
        ConfigError: if ``amp_cast_list`` names no cell of MindSpore's.
    """
    adapt_to_device(network, device)
    if config.train.sync_bn:
        network = convert_sync_batch_norm(network, world.size)
    amp = config.amp
    library = use_native_kernels(network, config.system, amp.amp_level, world.local_size)
    collectives.broadcast_parameters(network)

    updates = updates_per_epoch(steps_per_epoch, config.train.gradient_accumulation_steps)
    schedule = create_run_schedule(config.scheduler, config.train.epoch_size, updates)
    ema = EmaWeights(network, config.train.ema_decay) if config.train.ema else None
    optimizer = create_optimizer(network, _optimizer_settings(config.optimizer), schedule, device)

    network = apply_mixed_precision(network, amp.amp_level, amp.cast_classes)
    loss = create_loss(config.loss)
    exact_loss = device == "CPU" and config.loss.loss == "CE"
    with_loss = NetworkWithLoss(
        network,
        loss,
        exact=exact_loss,
        fused=make_loss(library, loss),
        distillation=_create_distillation(config.distill, config.loss, device, teacher),
    )
    step = _create_step(
        with_loss,
        optimizer,
        ema,
        train=config.train,
        amp=amp,
        device=device,
        library=library,
        ranks=world.size,
        reducers=create_reducers(library, world, device, collectives),
    )
    settings = graph_settings(config, library, schedule)
    compile_cell = create_compiler(config.system, device, collectives, settings)
    return Learner(step, schedule, updates, ema, compile_cell)


def adapt_to_device(network: nn.Cell, device: str) -> None:
    """Replace cells that a device isn't known to compute right; parameters stay the same.

    On Ascend these are depthwise convolutions with several feature maps per input channel.
    """
    replaced = compute_in_parts(network) if device == "Ascend" else 0
    if replaced:
        _logger.info(
            "%d depthwise convolutions with several maps per channel are computed in parts",
            replaced,
        )


def apply_mixed_precision(network: nn.Cell, level: str, cast_classes: Sequence[str]) -> nn.Cell:
    """Let a network compute in the precision of ``level``.

    Args:
        network: changed in place.
        level: O0, O1, O2, O3 or auto.
        cast_classes: names of cells in ``mindspore.nn``, from the recipe's ``amp_cast_list``.

    Raises:
        ConfigError: if MindSpore has no such cell.
    """
    classes = []
    for name in cast_classes:
        if not isinstance(getattr(nn, name, None), type):
            raise ConfigError(f"amp_cast_list: mindspore.nn has no cell {name!r}")
        classes.append(getattr(nn, name))
    return mixed_precision(network, level, tuple(classes))


def create_loss(loss: LossConfig) -> nn.Cell:
    """Create the recipe's loss."""
    if loss.loss.lower() == "jsd":
        return JsdLoss(loss.label_smoothing, loss.reduction)
    return mindcv.create_loss(
        name=loss.loss,
        reduction=loss.reduction,
        label_smoothing=loss.label_smoothing,
        aux_factor=loss.aux_factor,
    )


def _create_distillation(
    distill: DistillConfig, loss: LossConfig, device: str, teacher: Teacher | None
) -> Distillation | None:
    if teacher is None:
        return None
    soft_loss = SoftLoss(distill.temperature, loss.reduction, exact=device == "CPU")
    return Distillation(teacher, soft_loss, distill.alpha)


def _optimizer_settings(optimizer: OptimizerConfig) -> OptimizerSettings:
    return OptimizerSettings(
        opt=optimizer.opt,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        nesterov=optimizer.use_nesterov or optimizer.opt == "nesterov",
        weight_decay_filter=optimizer.weight_decay_filter,
        layer_decay=optimizer.layer_decay,
        eps=optimizer.eps,
    )


def _create_step(
    network: NetworkWithLoss,
    optimizer: nn.Optimizer,
    ema: EmaWeights | None,
    *,
    train: TrainConfig,
    amp: AmpConfig,
    device: str,
    library: str,
    ranks: int,
    reducers: tuple[nn.Cell, nn.Cell] | None,
) -> TrainStep:
    loss_scale = _loss_scale(amp)
    return TrainStep(
        network,
        optimizer,
        loss_scale,
        clip_norm=train.clip_value if train.clip_grad else None,
        ema=ema,
        accumulation_steps=train.gradient_accumulation_steps,
        ranks=ranks,
        reducers=reducers,
        check=_overflow_check(loss_scale, device, library),
        fused=make_momentum(library, optimizer),
    )


def _loss_scale(amp: AmpConfig) -> LossScale:
    kind, scale = amp.loss_scale_type.lower(), amp.loss_scale
    if kind == "auto":
        # MindCV leaves it to mindspore.Model, which takes DynamicLossScaleManager() with O2, whose
        # first scale is 2**24, and none with the other levels (mindspore/train/amp.py, 2.8).
        kind = "dynamic" if amp.amp_level == "O2" else "fixed"
        scale = 1.0 if kind == "fixed" else scale if scale > 1 else 2.0**24
    return LossScale(scale, kind == "dynamic", amp.drop_overflow_update)


def _overflow_check(loss_scale: LossScale, device: str, library: str) -> ValueCheck | StatusCheck:
    """Choose how overflows are detected on a device; see ``engine/overflow.py``."""
    saturates = compat.saturates(device)
    if saturates and loss_scale.skips:
        return StatusCheck()
    if saturates:
        # Without skipping, an update with an overflow ends the run. The device's overflow flag is
        # too strict for that: it is also set by a single value that was cut to the largest number.
        _logger.warning(
            "this device's arithmetic saturates: an overflow gives no infinity and a NaN becomes "
            "0, so diverging training is noticed late. Give --drop_overflow_update true to count "
            "overflows and skip their updates."
        )
    return ValueCheck(make_all_finite(library), saturates)


def trainer_settings(config: Config, device: str) -> TrainerSettings:
    """Take the settings of the training loop from the recipe, as far as a device allows them."""
    sink = config.train.dataset_sink_mode and config.system.mode == 0 and device != "CPU"
    if config.train.dataset_sink_mode and not sink and "dataset_sink_mode" in config.explicit:
        _logger.info("dataset_sink_mode is off: it needs graph mode on Ascend or GPU")
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
            # The CPU computes synchronously. Two batches in flight keep other devices busy.
            in_flight=0 if device == "CPU" else 2,
            report_folder=Path(config.checkpoint.ckpt_save_dir),
        ),
    )
