"""One exported file: run again, compared with its network, and counted on labelled images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mindcv_ghost.engine.evaluator import count_batch
from mindcv_ghost.errors import first_line
from mindcv_ghost.export.metadata import add_metadata
from mindcv_ghost.export.verification import Comparison, VerificationError
from mindcv_ghost.inference.description import ModelDescription
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.run.check_images import CheckBatch
from mindcv_ghost.storage.atomic_file import write_text

__all__ = ["ExportedFile"]


class ExportedFile:
    """A file that has been written and is about to be checked.

    Args:
        path: an .onnx or .mindir file.
        description: what travels with it, but for its accuracy.
        tolerance: how much its logits may differ from the network's; None for int8, of which only
            the accuracy counts.

    Attributes:
        comparison: what was found so far; None without a tolerance.
    """

    def __init__(self, path: Path, description: ModelDescription, tolerance: float | None) -> None:
        self.path, self.description, self._tolerance = path, description, tolerance
        self.comparison = self._comparison()
        self._runtime = open_runtime(path)
        self._correct = self._correct_topk = self._labelled = 0
        self._k = min(5, description.num_classes)

    def check(self, batch: CheckBatch, expected: np.ndarray) -> None:
        """Run the file on a batch, compare it with the network, and count its hits.

        Args:
            batch: with its pictures for a file with embedded preprocessing.
            expected: the network's logits, float32 (N, classes).

        Raises:
            VerificationError: if an answer isn't the network's.
        """
        logits = self.run(batch)
        if self.comparison is not None:
            self.comparison.add(expected, logits, batch.names)
        if batch.labels is not None:
            counts = count_batch(logits, batch.labels, self._k)
            self._correct += counts.correct
            self._correct_topk += counts.correct_topk
            self._labelled += len(batch.labels)

    def compare(self, batch: CheckBatch, expected: np.ndarray) -> None:
        """Only compare the file with the network, on images of another size than usual.

        The arguments are those of :meth:`check`. A file of a fixed size isn't compared.
        """
        comparison = self._comparison()
        sizes = zip(self._runtime.input_shape[2:], batch.images.shape[2:])
        embedded = self.description.embedded_preprocessing
        fits = embedded or all(own in (None, side) for own, side in sizes)
        if comparison is not None and fits:
            comparison.add(expected, self.run(batch), batch.names)

    def _comparison(self) -> Comparison | None:
        if self._tolerance is None:
            return None
        return Comparison(self.path.name, self._tolerance, self.description.class_names)

    def run(self, batch: CheckBatch) -> np.ndarray:
        """Return the file's logits, float32 (N, classes).

        Raises:
            VerificationError: if it can't be run on these images.
        """
        images = [batch.images]
        if self.description.embedded_preprocessing:
            images = [picture[np.newaxis] for picture in batch.pictures]
        try:
            return np.concatenate([self._runtime.logits(each) for each in images])
        except Exception as error:  # ONNX Runtime's and MindSpore's errors have no other class
            first = first_line(error.__cause__ or error)[:300]  # the cause is the runtime's own
            raise VerificationError(
                f"{self.path.name} can't be run on {batch.names[0]}: {first}"
            ) from error

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy in percent; None without labels."""
        return 100.0 * self._correct / self._labelled if self._labelled else None

    def describe(self, split: str) -> None:
        """Write the description, with the measured accuracy, into the file and beside it."""
        if self.top1 is not None:
            accuracy = {
                "top1": round(self.top1, 4),
                f"top{self._k}": round(100.0 * self._correct_topk / self._labelled, 4),
                "images": self._labelled,
                "split": split,
            }
            self.description = dataclasses.replace(self.description, accuracy=accuracy)
        add_metadata(self.path, self.description.to_metadata())
        write_text(self.path.with_suffix(".json"), self.description.to_json())
