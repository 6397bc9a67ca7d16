"""The int8 file of an export: quantised with a folder's images, measured on the validation set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from mindcv_ghost.config import ExportConfig
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError, UserError
from mindcv_ghost.export.quantisation import (
    LayerCost,
    QuantisationError,
    QuantisedModel,
    quantise,
    write_layer_report,
)
from mindcv_ghost.export.verification import VerificationError
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.inference.pictures import find_pictures
from mindcv_ghost.inference.preprocessing import preprocess
from mindcv_ghost.run.check_images import CheckImages

__all__ = ["quantise_network"]

_CALIBRATION_IMAGES = 256
_BATCH = 8

_logger = logging.getLogger(__name__)


def quantise_network(
    model: onnx.ModelProto,
    export: ExportConfig,
    preprocessing: Preprocessing,
    images: CheckImages,
    folder: Path,
) -> QuantisedModel:
    """Quantise a network, print its accuracy before and after, and write the report if asked for.

    Args:
        model: in float32, without preprocessing.
        export: the options: calibration images, limit, runtime, report.
        preprocessing: of the network.
        images: to measure the accuracy on. If they have no labels, int8 is measured by how often it
            answers as float32 on the calibration images.
        folder: for the models that are tried.

    Raises:
        UserError: if the calibration images or the report's file can't be used.
        VerificationError: if int8 costs more accuracy than ``max_drop``.
    """
    calibration = _read_calibration(export.int8, preprocessing)
    if images.split:
        _logger.info("int8: accuracy on %s", images.what)
    else:
        _logger.info("int8: no labels; measured by agreement with float32 on the same images")

    def accuracy(candidate: onnx.ModelProto) -> float:
        return _top1(candidate, labelled(), folder)

    def labelled() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        if not images.split:
            return zip(calibration, own)
        return (
            (batch.images, batch.labels) for batch in images.batches() if batch.labels is not None
        )

    own = [] if images.split else _classes(model, calibration, folder)
    try:
        result = quantise(
            model, calibration, accuracy, max_drop=export.max_drop, runtime=export.runtime
        )
    except QuantisationError as error:
        _write_report(export.int8_report, error.report)
        raise VerificationError(str(error).rstrip(".")) from None
    _write_report(export.int8_report, result.report)
    for line in result.table().splitlines():
        _logger.info("int8: %s", line)
    return result


def _read_calibration(folder: str, preprocessing: Preprocessing) -> list[np.ndarray]:
    """Read at most 256 images, spread evenly over a folder; batches, float32 (N, C, H, W)."""
    paths, problems = find_pictures([folder])
    if problems:
        raise DataError(f"--int8: {'; '.join(problems)}")
    chosen = paths[:: -(-len(paths) // _CALIBRATION_IMAGES)]
    _logger.info("int8: calibrating with %d images of %s", len(chosen), printable(folder))
    images = [preprocess(path, preprocessing) for path in chosen]
    return [np.stack(images[k : k + _BATCH]) for k in range(0, len(images), _BATCH)]


def _classes(
    model: onnx.ModelProto, batches: Iterable[np.ndarray], folder: Path
) -> list[np.ndarray]:
    """Run a model; return its classes, batch by batch."""
    path = folder / ".candidate.onnx"
    try:
        path.write_bytes(model.SerializeToString())
        runtime = open_runtime(path)
    finally:
        path.unlink(missing_ok=True)
    return [runtime.logits(batch).argmax(1) for batch in batches]


def _top1(
    model: onnx.ModelProto, labelled: Iterable[tuple[np.ndarray, np.ndarray]], folder: Path
) -> float:
    """Return top-1 in percent."""
    labels: list[np.ndarray] = []

    def batches() -> Iterable[np.ndarray]:
        for images, own in labelled:
            labels.append(own)
            yield images

    found = _classes(model, batches(), folder)
    return 100.0 * float((np.concatenate(found) == np.concatenate(labels)).mean())


def _write_report(path: str, report: Sequence[LayerCost]) -> None:
    if not path:
        return
    try:
        write_layer_report(Path(path), report)
    except OSError as error:
        raise UserError(f"--int8_report {path} can't be written: {error.strerror}") from None
    _logger.info("written: %s", path)
