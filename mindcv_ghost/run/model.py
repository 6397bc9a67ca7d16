"""The network that a recipe describes, with the weights that it starts from."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import mindcv
import numpy as np
from mindspore import nn

from mindcv_ghost.config import ModelConfig
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.storage.checkpoint import load_weights, parameter_names
from mindcv_ghost.surgery import GhostifyReport, ghostify

__all__ = ["CALIBRATION_IMAGES", "create_network"]

CALIBRATION_IMAGES = 256
"""How many images a Ghost network is fitted to, if the recipe doesn't say."""

_logger = logging.getLogger(__name__)


def create_network(
    model: ModelConfig,
    num_classes: int,
    *,
    use_ema: bool = False,
    start_weights: bool = True,
    calibration: Callable[[int], Iterable[np.ndarray]] | None = None,
) -> tuple[nn.Cell, GhostifyReport | None]:
    """Build the network of a recipe and load what it starts from.

    With ``ghostify: {init: fit}`` a training starts from the weights of the network that is to
    become a Ghost network; everything else (validation, a continued run, the checkpoint of a Ghost
    network) builds the Ghost network first.

    Args:
        model: the recipe's section.
        num_classes: outputs of the classifier.
        use_ema: take the averaged weights of the checkpoint.
        start_weights: False where other weights will come; the files of the start may be gone.
        calibration: gives so many training images in batches (N, C, H, W); None in validation.

    Returns:
        The network, and what ``ghostify`` did to it, if it was asked for.

    Raises:
        ConfigError: if there is no such model, it can't be built so, or ``ghostify`` can't be done.
        CheckpointError: as :func:`load_weights` raises.
    """
    if not start_weights:
        model = dataclasses.replace(model, pretrained=False, ckpt_path="")
    network = _build(model, num_classes)
    if not model.ghostify:
        _load(network, model, use_ema)
        return network, None
    options = dict(model.ghostify)
    images = options.pop("calibration_images", CALIBRATION_IMAGES)
    fit = options.pop("init", "random") == "fit"
    if not (fit and start_weights and calibration) or _is_fitted(model.ckpt_path, network):
        report = _ghostify(network, permuted=fit, **options)
        _load(network, model, use_ema)
        return network, report
    if not (model.ckpt_path or model.pretrained):
        raise ConfigError(
            "ghostify: init fit starts from a trained network. Give its weights with --ckpt_path "
            "FILE.ckpt or --pretrained true, or start from random ones with --ghostify init=random."
        )
    _load(network, model, use_ema)
    report = _ghostify(network, init="fit", calibration=calibration(images), **options)
    return network, report


def _build(model: ModelConfig, num_classes: int) -> nn.Cell:
    if not mindcv.models.is_model(model.model):
        near = difflib.get_close_matches(model.model, mindcv.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise ConfigError(
            f"model {model.model!r} is neither MindCV's nor mindcv_ghost's{hint} "
            "mindcv.list_models() names them all."
        )
    try:
        return mindcv.create_model(
            model.model,
            num_classes=num_classes,
            in_channels=model.in_channels,
            pretrained=model.pretrained,
            drop_rate=model.drop_rate,
            drop_path_rate=model.drop_path_rate,
            **model.model_args,
        )
    except (TypeError, ValueError) as error:
        # What a model raises for an option it doesn't have, or a value it can't take.
        raise ConfigError(
            f"model {model.model} can't be made with this num_classes, in_channels, drop_rate, "
            f"drop_path_rate or model_args: {error}"
        ) from error


def _load(network: nn.Cell, model: ModelConfig, use_ema: bool) -> None:
    if not model.ckpt_path:
        return
    report = load_weights(network, model.ckpt_path, use_ema, reset_head=model.reset_head)
    fresh = f"; new: {', '.join(report.reset)}" if report.reset else ""
    kind = "averaged weights" if report.ema else "weights"
    _logger.info("%d %s from %s%s", report.loaded, kind, model.ckpt_path, fresh)


def _ghostify(network: nn.Cell, **options: Any) -> GhostifyReport:
    try:
        _, report = ghostify(network, **options)
    except ValueError as error:
        raise ConfigError(f"ghostify: {error}") from error
    _logger.info("ghostify: %s", report.summary())
    return report


def _is_fitted(path: str, network: nn.Cell) -> bool:
    """Whether a checkpoint is that of a network that was fitted before."""
    return bool(path) and any(name.endswith(".order") for name in parameter_names(path, network))
