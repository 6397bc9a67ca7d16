"""What validation does to an image, as the description that travels with an exported file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mindcv_ghost.config import Config
from mindcv_ghost.config.keys import AugmentConfig
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.sets.sources import known_class_names
from mindcv_ghost.data.transforms.settings import Augment
from mindcv_ghost.inference.description import ModelDescription, Preprocessing

__all__ = ["create_augment", "describe_preprocessing", "describe_recipe"]

_SYNONYMS = {"linear": "bilinear", "cubic": "bicubic"}


def describe_preprocessing(kind: str, augment: Augment, in_channels: int) -> Preprocessing:
    """Describe what ``eval_transforms`` builds.

    Args:
        kind: of the set (``Source.kind``): "imagenet" for every folder of images, or a name in
            ``ARRAY_SETS``.
        augment: the recipe's settings. Of sets of arrays ``image_resize`` counts, as in MindCV.
        in_channels: of the network.
    """
    height, width = augment.size
    if kind in ARRAY_SETS:
        layout = ARRAY_SETS[kind]
        mean, std = layout.byte_mean, layout.byte_std
        resize: int | tuple[int, int] = height if height == width else (height, width)
        interpolation = "bilinear"
    else:
        mean, std = tuple(map(float, augment.mean)), tuple(map(float, augment.std))
        resize, interpolation = augment.eval_resize, augment.interpolation.lower()
    return Preprocessing(
        height=height,
        width=width,
        resize=resize,
        interpolation=_SYNONYMS.get(interpolation, interpolation),
        channels=in_channels,
        mean=_for_channels(mean, in_channels, kind),
        std=_for_channels(std, in_channels, kind),
    )


def describe_recipe(config: Config) -> ModelDescription:
    """Describe how a recipe's network is fed, and its classes as far as the data are there."""
    dataset, model = config.dataset, config.model
    name = dataset.dataset.lower()
    names = known_class_names(
        dataset.dataset, dataset.data_dir, (dataset.train_split, dataset.val_split)
    )
    names = config.class_names or names
    num_classes = model.num_classes or len(names)
    kind = name if name in ARRAY_SETS else "imagenet"
    return ModelDescription(
        model=model.model,
        num_classes=num_classes,
        preprocessing=describe_preprocessing(
            kind, create_augment(config.augment), model.in_channels
        ),
        class_names=names if len(names) == num_classes else (),
        recipe=Path(config.path).name,
    )


def create_augment(section: AugmentConfig) -> Augment:
    """Hand the recipe's section to ``data``, which knows no configuration."""
    return Augment(**dataclasses.asdict(section))


def _for_channels(values: tuple[float, ...], channels: int, kind: str) -> tuple[float, ...]:
    """Return one value a channel.

    For grey images that is the mean of the three colours' values, but for CIFAR the first.
    """
    if channels == 3:
        return values * 3 if len(values) == 1 else values
    return values[:1] if kind in ARRAY_SETS else (sum(values) / len(values),)
