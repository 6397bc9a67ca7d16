"""What a runtime of exported files is, and what the runtimes have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mindcv_ghost.errors import CheckpointError, first_line
from mindcv_ghost.inference.description import ModelDescription

__all__ = ["Runtime", "cannot_run", "in_fixed_batches", "read_description"]


class Runtime(Protocol):
    """A network that is ready to run. Several threads may call it at the same time.

    Attributes:
        name: of the file, for messages.
        description: what travels with the file; None for a file of another program.
        input_shape: the shape that the graph declares; None for a free dimension. () if unknown.
    """

    name: str
    description: ModelDescription | None
    input_shape: tuple[int | None, ...]

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the network.

        Args:
            batch: float32 (N, C, H, W); of a file with embedded preprocessing uint8 (1, H, W, C).

        Returns:
            float32 (N, classes).
        """


def read_description(path: Path, metadata: Mapping[str, str]) -> ModelDescription | None:
    """Read what travels with a file: its own metadata, else the JSON beside it; None without both.

    The file's own comes first, because another export may have replaced the JSON since.

    Args:
        path: of the file.
        metadata: what it carries, of any program.

    Raises:
        DataError: if it can't be read.
    """
    if "version" in metadata and "num_classes" in metadata:
        return ModelDescription.from_metadata(metadata, str(path))
    return _read_side_car(path)


def _read_side_car(path: Path) -> ModelDescription | None:
    """Read the JSON beside an exported file; None if there is none.

    Raises:
        DataError: if it can't be read.
    """
    beside = path.with_suffix(".json")
    try:
        text = beside.read_text(encoding="utf-8")
        values = json.loads(text)
    except (OSError, ValueError):
        return None  # missing, or another program's
    if not (isinstance(values, dict) and "version" in values and "num_classes" in values):
        return None
    return ModelDescription.from_json(text, str(beside))


def cannot_run(name: str, batch: np.ndarray, problem: BaseException) -> CheckpointError:
    """Make the error for a batch on which a file's network failed."""
    return CheckpointError(
        f"{name} can't be run on a batch of shape {batch.shape}: {first_line(problem)[:300]}. Does "
        "it take one image at a time, or is memory short? Then give one at a time (--batch_size 1)"
    )


def in_fixed_batches(batch: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Cut a batch into those of the one size that a graph was exported for.

    Args:
        batch: (N, ...).
        size: None for a graph that takes any.

    Returns:
        Batches of ``size``; the last one is padded with zeros.

    >>> [part.tolist() for part in in_fixed_batches(np.arange(1, 4), 2)]
    [[1, 2], [3, 0]]
    """
    if size is None or len(batch) == size:
        return [batch]
    missing = -len(batch) % size
    padding = np.zeros((missing, *batch.shape[1:]), batch.dtype)
    padded = np.concatenate([batch, padding])
    return [padded[start : start + size] for start in range(0, len(padded), size)]
