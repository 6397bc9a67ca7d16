"""How batches reach the training step: passed by the host, or fetched by the device (sink mode).

Both feeds have the same methods. ``epoch`` yields the inputs of each batch. For each of them,
``prepare`` compiles the step if needed, and ``run`` trains on it. ``close`` ends what was started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable
from typing import Protocol

import mindspore as ms
import mindspore.dataset as ds
from mindspore import nn

from mindcv_ghost.engine.compilation import Compile, compile_uncached
from mindcv_ghost.engine.step import TrainStep

__all__ = ["BatchSource", "HostFeed", "SinkFeed", "SinkPipeline"]

_logger = logging.getLogger(__name__)


class SinkPipeline(Protocol):
    """A dataset with the batches of many epochs, for a device that fetches them."""

    @property
    def dataset(self) -> ds.Dataset:
        """The batches."""

    def check(self, batch: int) -> None:
        """Raise the DataError that ended the pipeline at this batch or before, if there is one."""


class BatchSource(Protocol):
    """One rank's share of the training set, epoch by epoch."""

    steps_per_epoch: int
    images_per_epoch: int

    def epoch(self, epoch: int, skip: int = 0) -> Iterable:
        """Yield the batches ``(image, label)`` of one epoch (from 0) after the first ``skip``."""

    def whole_run(self, first_epoch: int, epochs: int, skip: int = 0) -> SinkPipeline:
        """Make one pipeline of ``epochs * steps_per_epoch - skip`` batches, for sink mode."""

    def names(self, epoch: int, step: int) -> list[str]:
        """List the names of a batch's images; epoch and step count from 0."""


class HostFeed:
    """Passes each batch from the host to the step.

    Args:
        step: the training step.
        batches: this rank's training set.
        compile: compiles a cell; None in PyNative mode.
    """

    def __init__(self, step: TrainStep, batches: BatchSource, compile: Compile | None) -> None:
        self.step = step
        self.batches = batches
        self._compile = compile

    def epoch(self, epoch: int, skip: int) -> Generator:
        """Yield the batches of an epoch (from 0) after the first ``skip``."""
        yield from self.batches.epoch(epoch, skip)

    def prepare(self, inputs: tuple) -> float:
        """Compile before the first batch; returns the seconds it took."""
        if self._compile is None:
            return 0.0
        started, compile_cell, self._compile = time.perf_counter(), self._compile, None
        found = compile_cell(self.step, *inputs)
        self.step.compile_update(compile_cell)
        if found:
            _logger.info("the compiled step comes from the cache (compile_cache)")
        return time.perf_counter() - started

    def run(self, inputs: tuple) -> tuple:
        """Train on a batch; returns what the step returns."""
        return self.step(*inputs)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


class SinkFeed:
    """Lets the device fetch its batches from a queue that MindSpore's threads fill (sink mode).

    There is one queue per run, because a new dataset would need a new graph. The step is connected
    to it again for each batch, as ``mindspore.Model`` does before each sink. The reason: with
    ``sink_size=1`` MindSpore also queues the shapes of every batch that it sends, only
    ``connect_network_with_dataset`` removes them, and sending stops for good when 128 are waiting
    (MindSpore 2.8, ``train/dataset_helper.py``). It returns a network that fits the coming batch,
    the same one for the same shapes.

    Args:
        step: the training step.
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
        """Yield an empty tuple for each batch of an epoch (from 0) after the first ``skip``."""
        if self._helper is None:
            self._pipeline = self.batches.whole_run(epoch, self.epochs - epoch, skip)
            self._helper = ms.DatasetHelper(
                self._pipeline.dataset, dataset_sink_mode=True, sink_size=1, epoch_num=1
            )
        for _ in range(self.batches.steps_per_epoch - skip):
            yield from self._helper

    def prepare(self, _inputs: tuple) -> float:
        """Wait for the shapes of the next batch; compile for new ones, return the seconds.

        Raises:
            DataError: if the next batch couldn't be loaded.
        """
        network = ms.connect_network_with_dataset(self.step, self._helper)
        self._network = network
        self._pipeline.check(self._count)
        self._count += 1
        if any(network is compiled for compiled in self._compiled):
            return 0.0
        # The new network wraps the step, so ``step.set_train`` doesn't reach it.
        network.set_train()
        started = time.perf_counter()
        network.compile()
        if not self._compiled:
            self.step.compile_update(compile_uncached)
        self._compiled.append(network)
        return time.perf_counter() - started

    def run(self, _inputs: tuple) -> tuple:
        """Train on the batch that :meth:`prepare` waited for; returns what the step returns."""
        if self._network is None:
            raise RuntimeError("prepare() comes before run()")
        return self._network()

    def close(self) -> None:
        """Stop the threads that send batches."""
        if self._helper is not None:
            self._helper.stop_send()
            self._helper.release()
