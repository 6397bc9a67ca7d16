"""How batches reach the training step: handed over by the host, or fetched by the device.

Both offer the same: ``epoch`` gives what ``run`` is to be called with, once a batch; ``prepare``,
called before each ``run``, compiles what isn't compiled yet; ``close`` ends what was started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import mindspore as ms
import mindspore.dataset as ds
from mindspore import nn

from mindcv_ghost.engine.graphs.cache import compile_plainly
from mindcv_ghost.engine.step import TrainStep

__all__ = ["BatchSource", "HostFeed", "SinkFeed", "SinkPipeline"]

_logger = logging.getLogger(__name__)


class SinkPipeline(Protocol):
    """The batches of many epochs, for a device that fetches them."""

    dataset: ds.Dataset

    def check(self, batch: int) -> None:
        """Raise the DataError that ended the pipeline, if it did at this batch or before."""


class BatchSource(Protocol):
    """One rank's share of the training set, epoch by epoch."""

    steps_per_epoch: int
    images_per_epoch: int

    def epoch(self, epoch: int, skip: int = 0) -> Iterator:
        """Give the batches ``(image, label)`` of one epoch (from 0) after the first ``skip``."""

    def whole_run(self, first_epoch: int, epochs: int, skip: int = 0) -> SinkPipeline:
        """Make one pipeline of ``epochs * steps_per_epoch - skip`` batches, for sink mode."""

    def names(self, epoch: int, step: int) -> list[str]:
        """Name the images of a batch; epoch and step count from 0."""


class HostFeed:
    """The host hands each batch over.

    Args:
        step: what is trained.
        batches: this rank's training set.
        compile: compiles a cell for inputs; tells whether it found the graph in a cache. None
            where nothing is compiled.
    """

    def __init__(
        self, step: TrainStep, batches: BatchSource, compile: Callable[..., bool] | None
    ) -> None:
        self.step = step
        self.batches = batches
        self._compile = compile

    def epoch(self, epoch: int, skip: int) -> Generator:
        """Give what is left of an epoch, counted from 0."""
        yield from self.batches.epoch(epoch, skip)

    def prepare(self, inputs: tuple) -> float:
        """Compile before the first batch; gives the seconds it took."""
        if self._compile is None:
            return 0.0
        started, compile_cell, self._compile = time.perf_counter(), self._compile, None
        found = compile_cell(self.step, *inputs)
        self.step.compile_update(compile_cell)
        if found:
            _logger.info("the compiled step comes from the cache (compile_cache)")
        return time.perf_counter() - started

    def run(self, inputs: tuple) -> tuple:
        """Train on a batch; gives loss and outcome."""
        return self.step(*inputs)

    def close(self) -> None:
        """There is nothing to end."""


class SinkFeed:
    """The device fetches its batches from a queue that threads of MindSpore's fill (sink mode).

    There is one queue a run, because a new data set would need a new graph. The step is connected
    to it anew for each batch, as ``mindspore.Model`` does before each sink: with ``sink_size=1``
    MindSpore also queues the shapes of every batch that it sends, only
    ``connect_network_with_dataset`` takes them out, and sending stops for good when 128 are waiting
    (MindSpore 2.8, ``train/dataset_helper.py``). It returns a network that fits the coming batch,
    the same one for the same shapes.

    Args:
        step: what is trained.
        batches: this rank's training set.
        epochs: of the run, counted from 0; the last one is ``epochs - 1``.
    """

    def __init__(self, step: TrainStep, batches: BatchSource, epochs: int) -> None:
        self.step = step
        self.batches = batches
        self.epochs = epochs
        self._helper: ms.DatasetHelper | None = None
        self._network: nn.Cell | None = None
        self._compiled: list[nn.Cell] = []
        self._count = 0

    def epoch(self, epoch: int, skip: int) -> Generator:
        """Give an empty tuple for each batch that is left of an epoch, counted from 0."""
        if self._helper is None:
            self._pipeline = self.batches.whole_run(epoch, self.epochs - epoch, skip)
            self._helper = ms.DatasetHelper(
                self._pipeline.dataset, dataset_sink_mode=True, sink_size=1, epoch_num=1
            )
        for _ in range(self.batches.steps_per_epoch - skip):
            yield from self._helper

    def prepare(self, _inputs: tuple) -> float:
        """Wait for the shapes of the next batch, and compile for new ones; gives the seconds.

        Raises:
            DataError: if this batch couldn't be made.
        """
        self._network = ms.connect_network_with_dataset(self.step, self._helper)
        self._pipeline.check(self._count)
        self._count += 1
        if any(self._network is network for network in self._compiled):
            return 0.0
        # The wrapper is new and outside of the step: ``step.set_train`` doesn't reach it.
        self._network.set_train()
        started = time.perf_counter()
        self._network.compile()
        if not self._compiled:
            self.step.compile_update(compile_plainly)
        self._compiled.append(self._network)
        return time.perf_counter() - started

    def run(self, _inputs: tuple) -> tuple:
        """Train on the batch that ``prepare`` has waited for; gives loss and outcome."""
        return self._network()

    def close(self) -> None:
        """End the threads that send, whatever they were about to do."""
        if self._helper is not None:
            self._helper.stop_send()
            self._helper.release()
