"""The int8 file of an export: quantised with a folder's images, measured on the validation set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.inference.pictures import find_pictures
from mindcv_ghost.inference.preprocessing import preprocess
from mindcv_ghost.run.check_images import CheckImages

if TYPE_CHECKING:
    import onnx

    from mindcv_ghost.export.quantisation import QuantisedModel

__all__ = ["accuracy_on", "read_calibration", "write_report"]

_CALIBRATION_IMAGES = 256
_BATCH = 8

_logger = logging.getLogger(__name__)


def read_calibration(folder: str, preprocessing: Preprocessing) -> list[np.ndarray]:
    """Read the images that decide the ranges of int8, prepared as validation does.

    Args:
        folder: has images, or folders of them; labels aren't needed.
        preprocessing: of the network.

    Returns:
        Batches, float32 (N, C, H, W), of at most 256 images spread evenly over the folder.

    Raises:
        DataError: if there are none, or one can't be read.
    """
    paths, problems = find_pictures([folder])
    if problems:
        raise DataError(f"--int8: {'; '.join(problems)}")
    stride = -(-len(paths) // _CALIBRATION_IMAGES)
    chosen = paths[::stride]
    _logger.info("int8: calibrating with %d images of %s", len(chosen), printable(folder))
    images = [preprocess(path, preprocessing) for path in chosen]
    return [np.stack(images[k : k + _BATCH]) for k in range(0, len(images), _BATCH)]


def accuracy_on(
    images: CheckImages, answers: Sequence[np.ndarray], folder: Path
) -> Callable[[onnx.ModelProto], float]:
    """Return a function that measures a model's top-1 in percent.

    Args:
        images: to measure on.
        answers: the float32 network's classes, batch by batch; they stand for the labels of images
            that have none.
        folder: for the model's file.
    """

    def accuracy(model: onnx.ModelProto) -> float:
        path = folder / ".candidate.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            runtime = open_runtime(path)
        finally:
            path.unlink()
        correct = count = 0
        for batch, own in zip(images.batches(), answers):
            labels = own if batch.labels is None else batch.labels
            correct += int((runtime.logits(batch.images).argmax(1) == labels).sum())
            count += len(labels)
        return 100.0 * correct / count

    return accuracy


def write_report(path: Path, quantised: QuantisedModel) -> None:
    """Write what int8 costs in each layer, a row a layer."""
