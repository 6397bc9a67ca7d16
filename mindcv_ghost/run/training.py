"""The one composition root: Config and World in, a run that is ready to start out.

The whole Config stops here; below it travels one section or plain values.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost import compat
from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.config import Config
from mindcv_ghost.data import (
    EvalLoader,
    Source,
    TrainLoader,
    calibration_batches,
    check_splits,
    class_names,
    open_source,
)
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.evaluator import Evaluation, Evaluator
from mindcv_ghost.engine.saver import check_space
from mindcv_ghost.engine.trainer import Trainer, updates_per_epoch
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.run.acceleration import compiler, speed_up
from mindcv_ghost.run.learner import create_learner, fit_to_device, mixed, trainer_settings
from mindcv_ghost.run.model import create_network
from mindcv_ghost.run.resume import open_saver, pick, settings_of
from mindcv_ghost.run.session import Session
from mindcv_ghost.storage.provenance import source_commit, utc_now
from mindcv_ghost.surgery import GhostifyReport

__all__ = ["TrainingRun", "ValidationRun", "training", "validation"]

_logger = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """A training that is ready to start: ``trainer.run()``, then ``facts`` for ``run.json``."""

    trainer: Trainer
    facts: dict


@dataclass
class ValidationRun:
    """A validation that is ready to start, and what is told of its result."""

    evaluator: Evaluator
    loader: EvalLoader
    facts: dict
    class_names: tuple[str, ...]

    def run(self) -> Evaluation:
        """Evaluate the whole set; the result is the same on every rank."""
        return self.evaluator.run(self.loader.batches())


def training(config: Config, world: World, session: Session) -> TrainingRun:
    """Put a training together.

    Args:
        config: what was asked for.
        world: this process among its job's.
        session: device and run folder, with the ranks already joined.

    Raises:
        UserError: if data, checkpoint, model or run folder aren't as they should be.
    """
    if config.checkpoint.resume_opt and config.model.ckpt_path:
        raise ConfigError(
            "resume_opt: a .ckpt file doesn't hold what an exact continuation needs. Continue a "
            "stopped run with --resume auto (or --resume RUN_FOLDER), or leave resume_opt out to "
            "start a new run from the weights of --ckpt_path."
        )
    collectives = Collectives(world.rank, world.size)
    train_set, val_set = _open_sets(config)
    num_classes = check_splits(train_set, val_set, config.model.num_classes)
    batches = _train_loader(config, train_set, num_classes, world)
    settings = None
    if session.folder is not None:
        settings = settings_of(config, world, train_set, num_classes, batches.native)
    run_folder = None if session.folder is None else session.folder.path
    earlier = pick(config.checkpoint.resume, run_folder, settings, collectives)
    # Masks of dropout are drawn from here on: a resumed run must not repeat those of its start.
    done = 0 if earlier is None else earlier.facts["position"]["batches"]
    ms.set_seed(config.system.seed + world.rank + done)
    network, ghostified = _network(config, num_classes, train_set, start_weights=earlier is None)
    parameters = count_parameters(network)
    learner = create_learner(
        config, world, session.device, network, collectives, batches.steps_per_epoch
    )
    step, schedule, ema = learner.step, learner.schedule, learner.ema
    accumulation = config.train.gradient_accumulation_steps
    updates = updates_per_epoch(batches.steps_per_epoch, accumulation)
    evaluate = None
    if val_set is not None:
        evaluator = Evaluator(
            *(step.model, num_classes, collectives),
            *(config.system.mode == 0, learner.compile),
        )
        val_loader = _eval_loader(config, val_set, world)

        def evaluate() -> Evaluation:
            return evaluator.run(val_loader.batches())

    facts = _facts(config, world, session.device, num_classes, parameters)
    facts.update(
        train_images=len(train_set),
        val_images=None if val_set is None else len(val_set),
        steps_per_epoch=batches.steps_per_epoch,
        **({} if ghostified is None else {"ghostify": ghostified.as_dict()}),
        global_batch_size=config.dataset.batch_size * world.size * accumulation,
    )
    saver = None
    if session.folder is not None:
        # Only here: source_commit() starts git, which has no business on eight ranks.
        facts.update(commit=source_commit(), hardware=describe_hardware(), date=utc_now())
        saver = open_saver(config, session.folder, num_classes, earlier)
        session.folder.write_config(config.to_yaml())
        session.folder.write_facts(facts)
        saver.facts = {
            "model": config.model.model,
            "settings": settings,
            "ranks": world.size,
            "steps_per_epoch": batches.steps_per_epoch,
            "updates_per_epoch": updates,
            "versions": facts["versions"],
        }

    def bad_images() -> dict[str, str]:
        return {**train_set.bad, **(val_set.bad if val_set is not None else {})}

    trainer = Trainer(
        *(step, batches, trainer_settings(config, session.device), schedule, collectives),
        *(saver, evaluate, ema, bad_images, learner.compile),
    )
    if earlier is not None:
        earlier.take_up(trainer, updates)
        if _draws_masks(network):
            _logger.warning(
                "the network has dropout or stochastic depth, whose masks MindSpore draws inside "
                "compiled kernels: the run goes on, but with other masks than it would have had"
            )
    if saver is not None and trainer.position.epoch < config.train.epoch_size:
        weights = sum(p.size * p.itemsize for p in network.get_parameters())
        check_space(session.folder.path, trainer.state.bytes, weights * (2 if ema else 1))
    return TrainingRun(trainer, facts)


def validation(config: Config, world: World, session: Session) -> ValidationRun:
    """Put a validation together; arguments and errors as for :func:`training`."""
    if not config.model.ckpt_path and not config.model.pretrained:
        raise ConfigError(
            "validate.py needs weights: give --ckpt_path FILE.ckpt (train.py writes best.ckpt and "
            "last.ckpt into its run folder), or --pretrained true for a model with published ones."
        )
    ms.set_seed(config.system.seed)
    data = config.dataset
    # Labels are those of the training split where it is there: a class that is missing in the
    # validation split must not shift the others.
    classes = class_names(data.dataset, data.data_dir, data.train_split)
    val_set = _open(config, data.val_split, classes)
    num_classes = check_splits(None, val_set, config.model.num_classes)
    network, _ = _network(config, num_classes)
    parameters = count_parameters(network)
    fit_to_device(network, session.device)
    library = speed_up(network, config, config.amp.val_amp_level, world, session.device)
    network = mixed(network, config.amp.val_amp_level, config)
    collectives = Collectives(world.rank, world.size)
    compile_cell = compiler(config, session.device, collectives, library)
    evaluator = Evaluator(network, num_classes, collectives, config.system.mode == 0, compile_cell)
    facts = _facts(config, world, session.device, num_classes, parameters)
    loader = _eval_loader(config, val_set, world)
    facts.update(
        checkpoint=config.model.ckpt_path,
        ema=config.evaluate.use_ema,
        batch_size=data.batch_size,
        steps=loader.steps,
    )
    return ValidationRun(evaluator, loader, facts, classes or val_set.classes)


def _open_sets(config: Config):
    train_set = _open(config, config.dataset.train_split)
    if not config.system.val_while_train:
        return train_set, None
    return train_set, _open(config, config.dataset.val_split, train_set.classes or None)


def _open(config: Config, split: str, classes: tuple[str, ...] | None = None) -> Source:
    data = config.dataset
    return open_source(
        data.dataset,
        data.data_dir,
        split,
        download=data.dataset_download,
        on_bad_image=data.on_bad_image,
        in_channels=config.model.in_channels,
        classes=classes,
    )


def _train_loader(config: Config, source: Source, num_classes: int, world: World) -> TrainLoader:
    data, augment = config.dataset, config.augment
    loader = TrainLoader(
        source,
        augment=augment,
        num_classes=num_classes,
        batch_size=data.batch_size,
        rank=world.rank,
        size=world.size,
        seed=config.system.seed,
        shuffle=data.shuffle,
        num_samples=data.num_samples,
        drop_remainder=data.drop_remainder,
        one_hot=config.loss.loss.lower() == "bce",
        workers=config.workers,
        native=data.native_loader,
        cache_mb=data.cache_images_mb,
    )
    _logger.info("%s", loader.backend_info)
    return loader


def _eval_loader(config: Config, source: Source, world: World) -> EvalLoader:
    return EvalLoader(
        source,
        augment=config.augment,
        batch_size=config.dataset.batch_size,
        rank=world.rank,
        size=world.size,
        workers=config.workers,
        native=config.dataset.native_loader,
        cache_mb=config.dataset.cache_images_mb,
    )


def _network(
    config: Config, num_classes: int, train_set: Source | None = None, start_weights: bool = True
) -> tuple[nn.Cell, GhostifyReport | None]:
    calibration = None
    if train_set is not None:

        def calibration(images: int) -> Iterator[np.ndarray]:
            data = config.dataset
            return calibration_batches(
                *(train_set, config.augment, images, data.batch_size, config.system.seed),
                workers=config.workers,
            )

    return create_network(
        config.model,
        num_classes,
        use_ema=config.evaluate.use_ema,
        start_weights=start_weights,
        calibration=calibration,
    )


def _draws_masks(network: nn.Cell) -> bool:
    return any(
        isinstance(cell, nn.Dropout) and 0 < (cell.p or 0) < 1
        for _, cell in network.cells_and_names()
    )


def _facts(config: Config, world: World, device: str, num_classes: int, parameters: int) -> dict:
    return {
        "model": config.model.model,
        "recipe": Path(config.path).name if config.path else None,
        "num_classes": num_classes,
        "parameters": parameters,
        "device": device,
        "ranks": world.size,
        "launcher": world.launcher,
        "mode": "graph" if config.system.mode == 0 else "pynative",
        "jit_level": config.system.jit_level or compat.default_jit_level(device),
        "seed": config.system.seed,
        "versions": compat.installed_versions(),
    }
