"""The network that a recipe describes, with its initial weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from mindspore import nn

from mindcv_ghost.config import ModelConfig
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.registry import create_model_by_name
from mindcv_ghost.storage.checkpoint import load_weights, parameter_names
from mindcv_ghost.surgery import GhostifyReport, ghostify
from mindcv_ghost.weights import find_weights

__all__ = ["create_network"]

_CALIBRATION_IMAGES = 256  # for ``init: fit``, if the recipe doesn't say

_logger = logging.getLogger(__name__)


def create_network(
    model: ModelConfig,
    num_classes: int,
    *,
    use_ema: bool = False,
    load_initial_weights: bool = True,
    calibration: Callable[[int], Iterable[np.ndarray]] | None = None,
) -> tuple[nn.Cell, GhostifyReport | None]:
    """Create the network of a recipe and load its initial weights.

    With ``ghostify: {init: fit}`` a new training loads the weights of the ordinary network, and
    then turns it into a Ghost network that is fitted to them. In all other cases (validation, a
    resumed run, the checkpoint of a Ghost network) the Ghost network is created first and the
    weights are loaded into it.

    Args:
        model: the recipe's section.
        num_classes: outputs of the classifier.
        use_ema: load the averaged weights of the checkpoint.
        load_initial_weights: False for a resumed run, whose state replaces them; their file may
            be gone by then.
        calibration: ``calibration(n)`` gives n training images in batches of shape (N, C, H, W);
            None in validation.

    Returns:
        The network, and the report of ``ghostify``, or None where the recipe doesn't ask for it.

    Raises:
        ConfigError: if there is no such model, it can't be built with these arguments, or
            ``ghostify`` can't be applied to it.
        CheckpointError: as :func:`load_weights` raises it.
    """
    if not load_initial_weights:
        model = dataclasses.replace(model, pretrained=False, ckpt_path="")
    elif isinstance(model.pretrained, str):
        model = _with_published(model)
    network = _create(model, num_classes)
    if not model.ghostify:
        _load(network, model, use_ema)
        return network, None
    options = dict(model.ghostify)
    images = options.pop("calibration_images", _CALIBRATION_IMAGES)
    fit = options.pop("init", "random") == "fit"
    resumed = not load_initial_weights
    if not fit or resumed or calibration is None or _is_fitted(model.ckpt_path, network):
        report = _ghostify(network, permuted=fit, **options)
        _load(network, model, use_ema)
        return network, report
    if not (model.ckpt_path or model.pretrained):
        raise ConfigError(
            "ghostify: init fit starts from a trained network. Give its weights with --ckpt_path "
            "FILE or --pretrained true, or start from random ones with --ghostify init=random."
        )
    _load(network, model, use_ema)
    report = _ghostify(network, init="fit", calibration=calibration(images), **options)
    return network, report


def _with_published(model: ModelConfig) -> ModelConfig:
    """Start from the file of a published network, with a new classifier for other classes."""
    assert isinstance(model.pretrained, str)
    published = find_weights(model.pretrained, model.model)
    _logger.info("pretrained %s: top-1 %s", model.pretrained, published.card.top1)
    return dataclasses.replace(
        model, pretrained=False, ckpt_path=str(published.weights), reset_head=True
    )


def _create(model: ModelConfig, num_classes: int) -> nn.Cell:
    return create_model_by_name(
        model.model,
        model.model_args,
        num_classes=num_classes,
        in_channels=model.in_channels,
        pretrained=model.pretrained,
        drop_rate=model.drop_rate,
        drop_path_rate=model.drop_path_rate,
    )


def _load(network: nn.Cell, model: ModelConfig, use_ema: bool) -> None:
    if not model.ckpt_path:
        return
    report = load_weights(
        network, model.ckpt_path, use_ema, reset_head=model.reset_head, model=model.model
    )
    _logger.info("%s: %s", model.ckpt_path, report)


def _ghostify(network: nn.Cell, **options: Any) -> GhostifyReport:
    try:
        _, report = ghostify(network, **options)
    except ValueError as error:
        raise ConfigError(f"ghostify: {error}") from error
    _logger.info("ghostify: %s", report.summary())
    return report


def _is_fitted(path: str, network: nn.Cell) -> bool:
    """Whether a checkpoint holds a network that ``init: fit`` has made."""
    return bool(path) and any(name.endswith(".order") for name in parameter_names(path, network))
