"""What train, validate and export begin with: bad input is told before MindSpore is imported."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mindcv_ghost import compat
from mindcv_ghost.config import Config, load_config
from mindcv_ghost.config.keys import AugmentConfig
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.launch.world import World, check_distribute, detect
from mindcv_ghost.weights import find_weights
from mindcv_ghost.weights.card import Card

__all__ = ["read_job", "use_published"]


def read_job(argv: list[str], script: str) -> tuple[Config, World]:
    """Read the configuration and this process's place among the ranks, and check both.

    Args:
        argv: the command line without the program's and the command's name.
        script: "train", "validate" or "export".

    Raises:
        UserError: if the command line, the launcher's variables or the installed versions don't
            allow the run, or there are no such published weights.
    """
    config = load_config(argv, script=script)
    world = detect(os.environ)
    # A recipe for eight devices is validated and exported in one process, as in MindCV.
    if script == "train" or world.size > 1:
        check_distribute(world, config.system.distribute)
    compat.refuse_unsupported_versions()
    pretrained = config.model.pretrained
    if isinstance(pretrained, str):
        if script != "train":
            config = use_published(argv, config, script)
        elif not config.checkpoint.resume:  # a resumed run doesn't need them any more
            find_weights(pretrained, config.model.model)
    return config, world


def use_published(argv: list[str], config: Config, script: str) -> Config:
    """Read the configuration again, with the network of ``pretrained`` as its defaults.

    Args:
        argv: the command line.
        config: what :func:`load_config` has made of it; its ``pretrained`` is a text.
        script: "validate" or "export".

    Returns:
        The configuration, in which the published file is the checkpoint.

    Raises:
        UserError: if there are no such weights, or they are another network's.
    """
    pretrained = config.model.pretrained
    assert isinstance(pretrained, str)
    asked = config.model.model if "model" in config.explicit else None
    published = find_weights(pretrained, asked)
    own = config.explicit
    config = load_config(argv, script=script, weights_recipe=str(published.config))
    if config.model.model != published.card.model:  # none was asked for: it is the recipe's
        raise CheckpointError(
            f"{published.config} is the recipe of {config.model.model}, the card beside it that of "
            f"{published.card.model}: this isn't a folder that `mindcv-ghost publish` wrote"
        )
    model = dataclasses.replace(
        config.model, pretrained=False, ckpt_path=str(published.weights.resolve())
    )
    if model.num_classes is None:
        model = dataclasses.replace(model, num_classes=published.card.num_classes)
    return dataclasses.replace(
        config,
        model=model,
        augment=_augment(config, published.card, own),
        class_names=published.card.class_names,
    )


def _augment(config: Config, card: Card, own: frozenset[str]) -> AugmentConfig:
    """Give other images what the network was trained on.

    A set of arrays has a preprocessing of its own, whatever its recipe's keys say.
    """
    layout = ARRAY_SETS.get(card.data.get("dataset", ""))
    if layout is None or config.dataset.dataset.lower() in ARRAY_SETS:
        return config.augment
    values: dict[str, Any] = {
        "mean": layout.byte_mean,
        "std": layout.byte_std,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    return dataclasses.replace(
        config.augment, **{key: value for key, value in values.items() if key not in own}
    )
