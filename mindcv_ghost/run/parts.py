"""What a training and a validation have in common: data sets, loaders, network, facts, settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost import compat
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
from mindcv_ghost.errors import DataError
from mindcv_ghost.launch.world import World
from mindcv_ghost.run.model import create_network
from mindcv_ghost.run.preprocessing import create_augment
from mindcv_ghost.surgery import GhostifyReport
from mindcv_ghost.version import __version__

__all__ = [
    "create_augment",
    "create_eval_loader",
    "create_initial_network",
    "create_train_loader",
    "graph_settings",
    "log_facts",
    "open_set",
    "open_validation_set",
    "run_facts",
]

_logger = logging.getLogger(__name__)
_GRAPH_SECTIONS = ("train", "optimizer", "scheduler", "loss", "distill", "amp")


def open_set(config: Config, split: str, classes: tuple[str, ...] | None = None) -> Source:
    """Open one split of the recipe's data set.

    Args:
        config: the run's configuration.
        split: name of the split.
        classes: class names in the order of their labels; None for those of the split.
    """
    dataset = config.dataset
    return open_source(
        dataset.dataset,
        dataset.data_dir,
        split,
        download=dataset.dataset_download,
        on_bad_image=dataset.on_bad_image,
        in_channels=config.model.in_channels,
        classes=classes,
        system_files=config.system_files,
    )


def open_validation_set(config: Config) -> tuple[Source, int, tuple[str, ...]]:
    """Open the validation set of a run without training.

    Labels are those of the training split if it is there: a class that is missing in the validation
    split must not shift the others.

    Returns:
        The set, the number of classes, and their names in the order of the labels; () where the set
        has none.

    Raises:
        UserError: if the set can't be used.
    """
    dataset = config.dataset
    classes = class_names(dataset.dataset, dataset.data_dir, dataset.train_split)
    val_set = open_set(config, dataset.val_split, classes)
    num_classes = check_splits(None, val_set, config.model.num_classes)
    names = classes or val_set.classes
    _check_names(config.class_names, names)
    return val_set, num_classes, names


def _check_names(published: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Compare the class names of published weights with those of the set, where both are known."""
    different = (i for i, pair in enumerate(zip(published, names)) if pair[0] != pair[1])
    number = next(different, None)
    if number is None:
        return
    if set(names) <= set(published):
        raise DataError(
            f"class {number} of the network is {published[number]}, of the set {names[number]}: "
            "the labels mean other classes. Give the set all class folders that the network knows "
            "(they may be empty)."
        )
    _logger.warning(
        "the set's class names (%s, ...) aren't the network's (%s, ...)", names[0], published[0]
    )


def create_train_loader(
    config: Config, source: Source, num_classes: int, world: World
) -> TrainLoader:
    """Create the loader of this rank's share of the training set."""
    dataset = config.dataset
    loader = TrainLoader(
        source,
        augment=create_augment(config.augment),
        num_classes=num_classes,
        batch_size=dataset.batch_size,
        rank=world.rank,
        size=world.size,
        seed=config.system.seed,
        shuffle=dataset.shuffle,
        num_samples=dataset.num_samples,
        drop_remainder=dataset.drop_remainder,
        one_hot=config.loss.loss.lower() in ("bce", "asl_multi_label"),
        workers=config.workers,
        native=dataset.native_loader,
        cache_mb=dataset.cache_images_mb,
    )
    _logger.info("%s", loader.backend_info)
    return loader


def create_eval_loader(config: Config, source: Source, world: World) -> EvalLoader:
    """Create the loader of this rank's share of the validation set."""
    return EvalLoader(
        source,
        augment=create_augment(config.augment),
        batch_size=config.dataset.batch_size,
        rank=world.rank,
        size=world.size,
        workers=config.workers,
        native=config.dataset.native_loader,
        cache_mb=config.dataset.cache_images_mb,
    )


def create_initial_network(
    config: Config,
    num_classes: int,
    train_set: Source | None = None,
    load_initial_weights: bool = True,
) -> tuple[nn.Cell, GhostifyReport | None]:
    """Create the recipe's network as a run starts with it.

    Args:
        config: the run's configuration.
        num_classes: outputs of the classifier.
        train_set: for ``ghostify: {init: fit}``, which looks at training images; None in
            validation.
        load_initial_weights: False for a resumed run.

    Returns:
        As :func:`mindcv_ghost.run.model.create_network`.
    """

    def calibration(images: int) -> Iterator[np.ndarray]:
        assert train_set is not None
        return calibration_batches(
            train_set,
            create_augment(config.augment),
            images,
            config.dataset.batch_size,
            config.system.seed,
            workers=config.workers,
        )

    return create_network(
        config.model,
        num_classes,
        use_ema=config.evaluate.use_ema,
        load_initial_weights=load_initial_weights,
        calibration=None if train_set is None else calibration,
    )


def graph_settings(config: Config, library: str, schedule: Sequence[float] = ()) -> dict[str, Any]:
    """Collect the settings that compiled graphs depend on.

    Args:
        config: the run's configuration.
        library: what identifies the native kernels; "" if none is used.
        schedule: learning rate of every update; graphs hold them as constants.
    """
    return {
        "model": [config.model.model, config.model.model_args, config.model.ghostify],
        "schedule": list(schedule),
        "library": library,
        **{name: dataclasses.asdict(getattr(config, name)) for name in _GRAPH_SECTIONS},
    }


def run_facts(
    config: Config, world: World, device: str, num_classes: int, parameters: int | None
) -> dict[str, Any]:
    """Collect the facts that every run reports; ``run.json`` of a training holds them.

    ``parameters`` is None where they can't be counted, as of an exported file.
    """
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
        "versions": {"mindcv_ghost": __version__, **compat.installed_versions()},
    }


def log_facts(facts: dict[str, Any]) -> None:
    """Log in a few lines what is about to run."""
    launcher = "" if facts["launcher"] == "single" else f" ({facts['launcher']})"
    versions = facts["versions"]
    parameters = facts["parameters"]
    size = "an exported file" if parameters is None else f"{parameters:,} parameters"
    _logger.info("%s: %s, %d classes", facts["model"], size, facts["num_classes"])
    _logger.info(
        "%d x %s%s, %s mode, MindSpore %s, MindCV %s",
        facts["ranks"],
        facts["device"],
        launcher,
        facts["mode"],
        versions["mindspore"],
        versions["mindcv"],
    )
    if "steps_per_epoch" in facts:
        val_images = facts["val_images"]
        _logger.info(
            "%s training images, %s validation images, %d steps an epoch, global batch %d",
            format(facts["train_images"], ","),
            "no" if val_images is None else format(val_images, ","),
            facts["steps_per_epoch"],
            facts["global_batch_size"],
        )
