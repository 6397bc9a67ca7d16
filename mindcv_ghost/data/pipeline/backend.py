"""What a backend of the loaders provides: batches of one epoch, and one pipeline for sink mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import mindspore.dataset as ds

__all__ = ["Batches", "EvalBackend", "SinkPipeline", "TrainBackend", "generator_dataset"]


class Batches(ABC):
    """The batches of one epoch; iterating again gives the same batches."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list]:
        return self.create_tuple_iterator()

    def create_tuple_iterator(
        self, num_epochs: int = 1, output_numpy: bool = False
    ) -> Iterator[list]:
        """Iterate over the batches as MindSpore's method of this name does.

        Args:
            num_epochs: must be 1.
            output_numpy: give arrays instead of Tensors.

        Raises:
            ValueError: for more than one epoch.
            DataError: at the batch whose image can't be read.
        """
        if num_epochs != 1:
            raise ValueError("num_epochs must be 1: each epoch has an order of its own")
        return self._iterate(output_numpy)

    @abstractmethod
    def _iterate(self, output_numpy: bool) -> Iterator[list]: ...


@dataclass(frozen=True)
class SinkPipeline:
    """The batches of many epochs in one pipeline, for a device that fetches them (sink mode).

    Args:
        dataset: the pipeline.
        check: raises the DataError of a batch that couldn't be made, called with the batch's
            number from 0. The pipeline itself goes on with batches that mustn't be used.
    """

    dataset: ds.Dataset
    check: Callable[[int], None]


class TrainBackend(Protocol):
    """Makes the training batches of one rank."""

    def epoch(self, epoch: int, skip: int) -> Batches:
        """Make the batches of one epoch (from 0), without the first ``skip``."""

    def whole_run(self, first_epoch: int, epochs: int, skip: int) -> SinkPipeline:
        """Make the batches of ``epochs`` epochs in one pipeline, without the first ``skip``."""


class EvalBackend(Protocol):
    """Makes the evaluation batches of one rank."""

    def batches(self) -> Batches:
        """Make all batches."""


def generator_dataset(rows: object, columns: list[str]) -> ds.GeneratorDataset:
    """Feed rows of arrays into MindSpore's pipeline, from a thread and never from a process.

    Processes would need shared memory, and would outlive a parent that is killed.
    """
    return ds.GeneratorDataset(rows, columns, num_parallel_workers=1, python_multiprocessing=False)
