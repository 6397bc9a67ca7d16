"""The range of every tensor, from images that pass through the network."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
from onnxruntime.quantization.calibrate import TensorData

__all__ = ["METHODS", "QUANTISED_TYPES", "Ranges", "calibrate"]

METHODS = ("MinMax", "Percentile", "Entropy")
"""ONNX Runtime's calibration methods that are tried."""

QUANTISED_TYPES = (
    *("Conv", "Gemm", "MatMul", "Relu", "Clip", "Add", "Mul", "Concat"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Sigmoid"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Pad"),
)
"""Nodes that are quantised: layers with weights, and those between them that ONNX Runtime computes
in integers. Sums and concatenations are among them: left in float32, ghost_resnet50 is a third
slower with 8 images (ONNX Runtime 1.32)."""

# Images of 224x224 that pass through at once: all their tensors are kept for the histograms.
_AT_ONCE = 4

Ranges = Dict[str, Any]  # name of a tensor -> onnxruntime's TensorData


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, batch: np.ndarray) -> None:
        self._feeds = iter([{name: batch}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def calibrate(model: onnx.ModelProto, images: Sequence[np.ndarray], method: str) -> Ranges:
    """Measure the ranges.

    Args:
        model: with one input.
        images: float32 batches (N, C, H, W), as the network takes them.
        method: one of :data:`METHODS`.

    Returns:
        The ranges of all tensors that may be quantised; tensors that are concatenated share theirs
        with the result (:func:`share_ranges`).
    """
    name = model.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            list(QUANTISED_TYPES),
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod[method],
        )
        for batch in _small_batches(images):
            calibrator.collect_data(_Reader(name, batch))
        ranges = dict(calibrator.compute_data().items())
        del calibrator
    return share_ranges(model, ranges)


def _small_batches(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in images:
        size = max(1, _AT_ONCE * 224 * 224 // int(np.prod(batch.shape[2:])))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def share_ranges(model: onnx.ModelProto, ranges: Ranges) -> Ranges:
    """Give all tensors that a Concat joins one range, and its result the same.

    Then bytes are copied. With different scales ONNX Runtime translates each byte by a table: in
    ghost_resnet50 the 52 Concats took 1.8 of 9.2 ms, with shared scales 0.45 ms (1.32, one thread).

    Args:
        model: the ranges are of its tensors.
        ranges: as measured.
    """
    group = {name: name for name in ranges}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in model.graph.node:
        if node.op_type == "Concat":
            joined = [name for name in (*node.output, *node.input) if name in group]
            for name in joined[1:]:
                group[root(name)] = root(joined[0])
    members = defaultdict(list)
    for name in group:
        members[root(name)].append(name)
    shared = dict(ranges)
    for names in members.values():
        if len(names) > 1:
            found = [ranges[name].range_value for name in names]
            lowest = np.min([low for low, _ in found]).astype(np.float32)
            highest = np.max([high for _, high in found]).astype(np.float32)
            shared.update({n: TensorData(lowest=lowest, highest=highest) for n in names})
    return shared
