"""A checkpoint's network for prediction, built by its recipe."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.engine.evaluator import NetworkForward
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.inference.description import ModelDescription
from mindcv_ghost.run.learner import adapt_to_device
from mindcv_ghost.run.model import create_network
from mindcv_ghost.run.preprocessing import describe_recipe

__all__ = ["checkpoint_runtime"]


class CheckpointRuntime:
    """A cell as :class:`~mindcv_ghost.inference.runtime.Runtime`.

    It runs in PyNative mode: compiling a graph would take longer than a few images.
    """

    def __init__(self, name: str, network: nn.Cell, description: ModelDescription) -> None:
        self.name = name
        self.description: ModelDescription | None = description
        self.input_shape: tuple[int | None, ...] = ()
        network.set_train(False)
        self._forward, self._lock = NetworkForward(network, graph_mode=False), threading.Lock()

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the network. Calls wait for each other, because a cell isn't thread-safe."""
        with self._lock:
            return self._forward(ms.Tensor(batch))


def checkpoint_runtime(config: Config) -> CheckpointRuntime:
    """Build the network of a checkpoint.

    Args:
        config: the recipe, with the checkpoint as ``ckpt_path``.

    Raises:
        UserError: if the checkpoint doesn't fit the recipe's network, or the number of classes
            isn't known.
    """
    path = Path(config.model.ckpt_path)
    description = describe_recipe(config)
    num_classes = description.num_classes or _recorded_classes(path)
    if not num_classes:
        raise CheckpointError(
            f"{path}: the number of classes isn't known. Set num_classes in {config.path}, or put "
            f"the images where its data_dir says ({config.dataset.data_dir})"
        )
    device = compat.resolve_device(config.system.device_target)
    compat.set_up(device, 0, 1, None)
    network, _ = create_network(config.model, num_classes, use_ema=config.evaluate.use_ema)
    adapt_to_device(network, device)
    description = dataclasses.replace(description, num_classes=num_classes)
    return CheckpointRuntime(str(path), network, description)


def _recorded_classes(path: Path) -> int:
    """Return the number of classes in the run folder's ``run.json``; 0 without one."""
    try:
        return int(json.loads(path.with_name("run.json").read_text())["num_classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
