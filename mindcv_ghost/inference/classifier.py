"""From pictures to labels with probabilities."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, overload

import numpy as np

from mindcv_ghost.compat import usable_cores
from mindcv_ghost.errors import CheckpointError, DataError
from mindcv_ghost.inference.description import ModelDescription, Preprocessing
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.inference.preprocessing import (
    Picture,
    check_preprocessing,
    preprocess,
    to_pixels,
)
from mindcv_ghost.inference.runtime import Runtime

__all__ = ["Classifier", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """One of a picture's most probable classes.

    Args:
        label: name of the class; its number where the file has no names.
        index: its number.
        probability: from 0 to 1.
    """

    label: str
    index: int
    probability: float


class Classifier:
    """Classifies pictures by an exported network; several threads may share it.

    An .onnx file needs neither MindSpore nor MindCV.

    Args:
        model: an .onnx or .mindir file that ``mindcv-ghost export`` has written, or a
            :class:`~mindcv_ghost.inference.runtime.Runtime`.
        threads: of ONNX Runtime for one batch; 0: a thread a core.
        description: how to feed the file of another program. The file's own is used if it has one.

    Attributes:
        description: what travels with the file: model, class names, accuracy, preprocessing.

    Raises:
        UserError: if the file is missing, damaged or of another kind, has no description, or what
            runs it isn't installed.

    Example:
        >>> classifier = Classifier("ghost_resnet50.onnx")  # doctest: +SKIP
        >>> classifier("cat.jpg")[0]  # doctest: +SKIP
        Prediction(label='tabby', index=281, probability=0.93)
    """

    def __init__(
        self,
        model: str | os.PathLike | Runtime,
        *,
        threads: int = 0,
        description: ModelDescription | None = None,
    ) -> None:
        runtime = open_runtime(model, threads) if isinstance(model, (str, os.PathLike)) else model
        self.description = _described(runtime, description)
        self._preprocessing = _checked(self.description, runtime)
        self._runtime = runtime

    @overload
    def __call__(self, pictures: Picture, *, topk: int = 5) -> list[Prediction]: ...

    @overload
    def __call__(self, pictures: Sequence[Picture], *, topk: int = 5) -> list[list[Prediction]]: ...

    def __call__(
        self, pictures: Any, *, topk: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """Classify one picture, or each of a list.

        Args:
            pictures: a path, the bytes of a file, a picture of Pillow's, or uint8 (H, W, 3), RGB,
                or (H, W); or a list of these, or uint8 (N, H, W, 3).
            topk: how many classes to return for each; all if there are fewer.

        Returns:
            The most probable classes of the picture, the most probable first; for a list, a list of
            these.

        Raises:
            DataError: for the first picture that can't be read.
        """
        if isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4:
            return self._all(pictures, topk)
        return self._all([pictures], topk)[0]

    def stream(
        self, pictures: Iterable[Picture | DataError], *, topk: int = 5, batch_size: int = 8
    ) -> Generator[list[Prediction] | DataError, None, None]:
        """Classify many pictures; the next batch is read while the network runs.

        Args:
            pictures: as many as there are, read when their turn comes. An error in the place of one
                that the caller couldn't read comes out in its place.
            topk: see :meth:`__call__`.
            batch_size: pictures that the network gets at once.

        Yields:
            For each picture, in order, its classes; the error for one that can't be read.
        """
        pool = ThreadPoolExecutor(usable_cores())
        remaining = iter(pictures)

        def read_ahead() -> list[Future]:
            return [pool.submit(self._prepare, p) for p in islice(remaining, batch_size)]

        try:
            batch = read_ahead()
            while batch:
                following = read_ahead()
                yield from self._results(batch, topk)
                batch = following
        finally:
            pool.shutdown(cancel_futures=True)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the network on what :func:`~mindcv_ghost.inference.preprocessing.preprocess` made.

        Args:
            batch: float32 (N, C, H, W); of a file with embedded preprocessing uint8 (1, H, W, C).

        Returns:
            float32 (N, classes).
        """
        return self._runtime.logits(batch)

    def _all(self, pictures: Iterable[Picture], topk: int) -> list[list[Prediction]]:
        results = []
        for result in self.stream(pictures, topk=topk):
            if isinstance(result, DataError):
                raise result
            results.append(result)
        return results

    def _prepare(self, picture: Picture | DataError) -> np.ndarray:
        """Make the network's input of one picture, without the dimension of the batch."""
        if isinstance(picture, DataError):
            raise picture
        if self._preprocessing is not None:
            return preprocess(picture, self._preprocessing)
        return np.ascontiguousarray(to_pixels(picture))

    def _results(
        self, batch: Sequence[Future], topk: int
    ) -> Iterator[list[Prediction] | DataError]:
        errors = [future.exception() for future in batch]
        logits = iter(self._batch_logits([f.result() for f in batch if not f.exception()]))
        for error in errors:
            try:
                if error is not None:
                    raise error
                yield _most_probable(next(logits), self.description.class_names, topk)
            except DataError as problem:
                yield problem

    def _batch_logits(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if not inputs:
            return []
        if self._preprocessing is None:  # of any size, so one by one
            logits = np.concatenate([self.logits(one[np.newaxis]) for one in inputs])
        else:
            logits = self.logits(np.stack(inputs))
        names = self.description.class_names
        if logits.ndim != 2 or (names and logits.shape[1] != len(names)):
            raise CheckpointError(
                f"{self._runtime.name} gives an output of shape {logits.shape} for {len(inputs)} "
                f"pictures, but there are {len(names)} class names: is it a classifier?"
            )
        return logits


def _most_probable(logits: np.ndarray, names: Sequence[str], count: int) -> list[Prediction]:
    """Return the highest logits as probabilities; of equal ones the lower index comes first."""
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("the network's output isn't finite (NaN or infinity)")
    exponentials = np.exp(values - values.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-values, kind="stable")[:count]
    return [
        Prediction(names[k] if names else str(k), int(k), float(probabilities[k])) for k in order
    ]


def _checked(description: ModelDescription, runtime: Runtime) -> Preprocessing | None:
    """Return how pictures are prepared; None if the graph does it. Raise if that can't be."""
    if description.embedded_preprocessing:
        return None
    preprocessing = description.preprocessing
    assert preprocessing is not None
    check_preprocessing(preprocessing, runtime.name)
    made = (preprocessing.channels, preprocessing.height, preprocessing.width)
    taken = runtime.input_shape[1:]
    if any(t is not None and t != m for t, m in zip(taken, made)):
        raise CheckpointError(
            f"{runtime.name} takes images of shape {taken}, but its preprocessing makes {made} "
            "(channels, height, width)"
        )
    return preprocessing


def _described(runtime: Runtime, description: ModelDescription | None) -> ModelDescription:
    """Return the file's own description, completed by the given one."""
    own = runtime.description
    if own is not None and (own.preprocessing is not None or own.embedded_preprocessing):
        return own
    if description is None or description.preprocessing is None:
        raise CheckpointError(
            f"{runtime.name} doesn't say how pictures are prepared for it. `mindcv-ghost export` "
            "writes that into the file, if it is given the recipe; for other files give the "
            "recipe's values: `mindcv-ghost infer --config RECIPE`, or "
            "Classifier(..., description=...)"
        )
    if own is None:
        return description
    names = own.class_names or description.class_names
    return replace(own, preprocessing=description.preprocessing, class_names=names)
