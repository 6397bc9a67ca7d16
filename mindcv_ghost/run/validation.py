"""A validation: created from its configuration, run, and reported."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.config import Config
from mindcv_ghost.config.keys import EvaluateConfig, ModelConfig
from mindcv_ghost.data import EvalLoader
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.evaluator import Evaluator, Forward, NetworkForward
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.evaluation import Evaluation, to_json, to_line, write_reports
from mindcv_ghost.run.acceleration import create_compiler, use_native_kernels
from mindcv_ghost.run.exported import open_exported_network
from mindcv_ghost.run.learner import adapt_to_device, apply_mixed_precision
from mindcv_ghost.run.parts import (
    create_eval_loader,
    create_initial_network,
    graph_settings,
    log_facts,
    open_validation_set,
    run_facts,
)
from mindcv_ghost.run.session import Session

__all__ = ["ValidationData", "ValidationRun", "create_validation", "open_validation_data"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationData:
    """The validation set, for any number of validations.

    Args:
        num_classes: of the network.
        class_names: in the order of the labels; () where the set has none.
        loader: this rank's share of the set; it may keep the decoded images.
    """

    num_classes: int
    class_names: tuple[str, ...]
    loader: EvalLoader


def open_validation_data(config: Config, world: World) -> ValidationData:
    """Open the validation set, and create its loader; every rank has to call it.

    Raises:
        UserError: if the set can't be used.
    """
    val_set, num_classes, names = open_validation_set(config)
    return ValidationData(num_classes, names, create_eval_loader(config, val_set, world))


@dataclass(frozen=True)
class ValidationRun:
    """A validation that is ready to start.

    Args:
        evaluator: the network, ready to be evaluated.
        data: the validation set.
        facts: what is validated, as :func:`run_facts` collects it.
        evaluate: the recipe's section, with the files to write.
    """

    evaluator: Evaluator
    data: ValidationData
    facts: dict[str, Any]
    evaluate: EvaluateConfig

    def run(self) -> Evaluation:
        """Evaluate the whole set; the result is the same on every rank."""
        log_facts(self.facts)
        return self.evaluator.run(self.data.loader.batches())

    def report(self, evaluation: Evaluation) -> None:
        """Log the result, print it as JSON, and write the files that the recipe asks for.

        Raises:
            ConfigError: if a file can't be written; the result has been printed then.
        """
        _logger.info("%s", to_line(evaluation))
        print(to_json(evaluation, self.facts), flush=True)
        per_class, confusion = self.evaluate.per_class, self.evaluate.confusion
        try:
            write_reports(evaluation, self.data.class_names, per_class, confusion)
        except OSError as error:
            files = " and ".join(filter(None, (per_class, confusion)))
            raise ConfigError(f"{files} can't be written: {error.strerror or error}") from error


def create_validation(
    config: Config, world: World, session: Session, data: ValidationData | None = None
) -> ValidationRun:
    """Put a validation together; every rank has to call it.

    Args:
        config: the run's configuration.
        world: this process among the ranks.
        session: the device; the ranks have joined.
        data: of the same data set, from an earlier validation; None opens it.

    Raises:
        UserError: if data, checkpoint or model can't be used.
    """
    exported = config.evaluate.onnx
    if not exported:
        _require_weights(config.model)
    _require_places(config.evaluate)
    ms.set_seed(config.system.seed)

    data = data or open_validation_data(config, world)
    num_classes = data.num_classes

    # Network.
    collectives = Collectives(world.rank, world.size)
    forward: Forward
    if exported:
        forward, parameters = open_exported_network(config, num_classes, world), None
    else:
        network, _ = create_initial_network(config, num_classes)
        parameters = count_parameters(network)
        forward = _prepare_network(config, world, session.device, network, collectives)
    evaluator = Evaluator(forward, num_classes, collectives)

    facts = {
        **run_facts(config, world, session.device, num_classes, parameters),
        "checkpoint": exported or config.model.ckpt_path,
        "ema": config.evaluate.use_ema,
        "batch_size": config.dataset.batch_size,
        "steps": data.loader.steps,
    }
    return ValidationRun(evaluator, data, facts, config.evaluate)


def _prepare_network(
    config: Config, world: World, device: str, network: nn.Cell, collectives: Collectives
) -> NetworkForward:
    level, local_ranks = config.amp.val_amp_level, world.local_size
    adapt_to_device(network, device)
    library = use_native_kernels(network, config.system, level, local_ranks)
    network = apply_mixed_precision(network, level, config.amp.cast_classes)
    settings = graph_settings(config, library)
    return NetworkForward(
        network,
        graph_mode=config.system.mode == 0,
        compile=create_compiler(config.system, device, collectives, settings),
    )


def _require_places(evaluate: EvaluateConfig) -> None:
    """Refuse files that couldn't be written after the whole validation."""
    for key in ("per_class", "confusion"):
        if not getattr(evaluate, key):
            continue
        path = Path(getattr(evaluate, key))
        try:
            is_folder, has_folder = path.is_dir(), path.parent.is_dir()
        except OSError as problem:  # a long name, or a closed folder
            reason = problem.strerror or problem
            raise ConfigError(f"{key} is {path}, which can't be written: {reason}") from None
        if is_folder:
            raise ConfigError(f"{key} is {path}, which is a folder: give a file in it")
        if not has_folder:
            raise ConfigError(f"{key} is {path}, but there is no folder {path.parent}: create it")
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"{key} is {path}, but its folder can't be written to")
    if evaluate.confusion and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "confusion is drawn by matplotlib, which isn't installed: pip install matplotlib (or "
            "'.[demo]'), or leave it out"
        )


def _require_weights(model: ModelConfig) -> None:
    if not model.ckpt_path and not model.pretrained:
        raise ConfigError(
            "validation needs weights: give --ckpt_path FILE.ckpt (a training writes best.ckpt and "
            "last.ckpt into its run folder), --pretrained NAME for published ones, or "
            "--onnx FILE.onnx for an exported network."
        )
