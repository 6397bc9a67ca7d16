"""What int8 costs, layer by layer: the error of the logits when one layer alone is quantised."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime

from mindcv_ghost.export.quantisation.calibration import Ranges
from mindcv_ghost.export.quantisation.insertion import insert_quantisation
from mindcv_ghost.export.quantisation.layers import Layer
from mindcv_ghost.export.quantisation.scheme import Scheme

__all__ = ["layer_errors", "logits_of", "signal_to_noise"]

_logger = logging.getLogger(__name__)


def logits_of(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> np.ndarray:
    """Run a model in onnxruntime.

    Args:
        model: with one input.
        images: batches (N, C, H, W).

    Returns:
        Logits (sum of N, classes).
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings: each of them is about the optimiser
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: batch})[0] for batch in images])


def signal_to_noise(logits: np.ndarray, approximate: np.ndarray) -> float:
    """Return the signal-to-noise ratio in decibels; 200 for no noise.

    >>> signal_to_noise(np.array([10.0, 0.0]), np.array([9.0, 0.0]))
    20.0
    """
    noise = float(np.square(logits - approximate).sum())
    signal = float(np.square(logits).sum())
    return min(200.0, 10 * np.log10(signal / noise)) if noise and signal else 200.0


def layer_errors(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    ranges: Ranges,
    scheme: Scheme,
    images: Sequence[np.ndarray],
    exact: np.ndarray,
) -> dict[str, float]:
    """Quantise each layer alone, with its input, weight and output.

    Args:
        model: as ``prepare`` returned it.
        layers: its layers.
        ranges: of its tensors.
        scheme: the integers.
        images: batches on which the logits are compared.
        exact: logits of ``model`` on them.

    Returns:
        Layer's name -> signal-to-noise ratio of the logits in decibels.
    """
    found = {}
    for number, layer in enumerate(layers, 1):
        alone = insert_quantisation(model, ranges, scheme, only=[layer.name])
        found[layer.name] = signal_to_noise(exact, logits_of(alone, images))
        if number % 25 == 0 or number == len(layers):
            _logger.info("int8: %d of %d layers measured one by one", number, len(layers))
    return found
