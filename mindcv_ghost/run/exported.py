"""An exported network in a validation, in the place of the recipe's own."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from mindspore import Tensor

from mindcv_ghost.config import Config
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.inference.runtime import Runtime
from mindcv_ghost.kernels.library import threads_for
from mindcv_ghost.launch.world import World
from mindcv_ghost.run.preprocessing import describe_recipe

__all__ = ["open_exported_network"]

_logger = logging.getLogger(__name__)


class ExportedForward:
    """A runtime's logits, for the evaluator.

    Args:
        runtime: the opened file.
        num_classes: of the validation set.
    """

    def __init__(self, runtime: Runtime, num_classes: int) -> None:
        self._runtime, self._num_classes = runtime, num_classes

    def prepare(self, image: Tensor) -> None:
        """Run once, and raise if the outputs aren't the set's classes.

        Raises:
            CheckpointError: with both numbers.
        """
        shape = self(image[:1]).shape
        if shape != (1, self._num_classes):
            raise CheckpointError(
                f"{self._runtime.name} gives {shape[-1]} outputs an image, but there are "
                f"{self._num_classes} classes: give the recipe that it was exported with"
            )

    def __call__(self, image: Tensor) -> np.ndarray:
        """Run the file."""
        return self._runtime.logits(image.asnumpy())


def open_exported_network(config: Config, num_classes: int, world: World) -> ExportedForward:
    """Open the file of the key ``onnx``; the ranks of a host share its cores.

    The images come from the recipe's loaders, as for a checkpoint.

    Args:
        config: the run's configuration.
        num_classes: of the validation set.
        world: this process among the ranks.

    Raises:
        UserError: if the file can't be opened, or takes other images than the recipe makes.
    """
    path = Path(config.evaluate.onnx)
    if path.suffix != ".onnx":
        raise CheckpointError(f"--onnx {path}: the suffix must be .onnx")
    runtime = open_runtime(path, threads_for(world.local_size))
    asked = describe_recipe(config).preprocessing
    assert asked is not None
    found = runtime.description
    if found is not None and found.embedded_preprocessing:
        raise CheckpointError(
            f"{path} prepares images itself, but a validation's loaders already do: export it "
            "without --embed_preprocess"
        )
    made = (asked.channels, asked.height, asked.width)
    if any(t is not None and t != m for t, m in zip(runtime.input_shape[1:], made)):
        raise CheckpointError(
            f"{path} takes images of shape {runtime.input_shape[1:]}, but the recipe makes {made} "
            "(channels, height, width): give the recipe that it was exported with"
        )
    if found is not None and found.preprocessing not in (None, asked):
        _logger.warning(
            "%s was exported with another preprocessing than the recipe's: %s, now %s",
            path,
            found.preprocessing,
            asked,
        )
    return ExportedForward(runtime, num_classes)
