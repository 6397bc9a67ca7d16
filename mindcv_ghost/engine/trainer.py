"""The training loop: epochs, validation, checkpoints, and the numbers of a run.

A loop of our own around MindSpore cells instead of ``mindspore.train.Model``: Model offers neither
an update every few micro-steps with a schedule to match, nor dynamic loss scale on the CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import mindspore as ms
import mindspore.dataset as ds
import numpy as np

from mindcv_ghost.engine.checkpoint import CheckpointKeeper
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.evaluator import Evaluation
from mindcv_ghost.engine.step import TrainStep
from mindcv_ghost.errors import UserError
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.logs import LOGGER_NAME
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.report.progress import Progress, format_duration

__all__ = ["TrainLog", "Trainer", "TrainerSettings", "TrainingDiverged", "updates_per_epoch"]

_logger = logging.getLogger(LOGGER_NAME)
_STATISTICS = ("moving_mean", "moving_variance")


class TrainingDiverged(UserError):
    """The loss is no longer a number."""


class BatchSource(Protocol):
    """One rank's share of the training set, epoch by epoch."""

    steps_per_epoch: int
    images_per_epoch: int

    def epoch(self, epoch: int) -> Iterable:
        """Give the batches ``(image, label)`` of one epoch (from 0)."""

    def whole_run(self, first_epoch: int, epochs: int) -> ds.Dataset:
        """Make one pipeline of ``epochs * steps_per_epoch`` batches, for sink mode."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long, and how often what.

    Args:
        epochs: to train.
        log_interval: steps between progress lines.
        val_interval: epochs between validations; the last epoch is always validated.
        graph_mode: whether steps are compiled.
        sink: let the device fetch its batches from a queue (Ascend and GPU only).
    """

    epochs: int
    log_interval: int = 100
    val_interval: int = 1
    graph_mode: bool = True
    sink: bool = False


@dataclass(frozen=True)
class TrainLog:
    """Where rank 0 writes; None on the other ranks."""

    metrics: MetricsLog
    events: EventsLog
    checkpoints: CheckpointKeeper


@dataclass
class EpochStats:
    loss: float = math.nan
    lr: float = math.nan
    seconds: float = 0.0
    compile_seconds: float = 0.0
    overflows: int = 0
    images_per_second: float = 0.0


@dataclass
class Summary:
    """What a run came to; accuracies are in percent."""

    epochs: int = 0
    best_top1: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    last: EpochStats = field(default_factory=EpochStats)


def updates_per_epoch(micro_steps: int, accumulation_steps: int) -> int:
    """Count an epoch's updates; the last group may be shorter than the others.

    >>> updates_per_epoch(10, 4), updates_per_epoch(8, 4), updates_per_epoch(3, 1)
    (3, 2, 3)
    """
    return -(-micro_steps // accumulation_steps)


class Trainer:
    """Trains a network, validates it and keeps its checkpoints.

    Args:
        step: the compiled step.
        batches: this rank's training set.
        settings: see :class:`TrainerSettings`.
        schedule: learning rate of every update of the run.
        collectives: to the other ranks.
        log: where to write; rank 0 only.
        evaluate: validates the network as it is, or None.
        ema: averaged weights; validation then uses them.
        bad_images: tells which images this rank couldn't read so far, and why.
    """

    def __init__(
        self,
        step: TrainStep,
        batches: BatchSource,
        settings: TrainerSettings,
        schedule: list[float],
        collectives: Collectives,
        log: TrainLog | None = None,
        evaluate: Callable[[], Evaluation] | None = None,
        ema: EmaWeights | None = None,
        bad_images: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.step = step
        self.batches = batches
        self.settings = settings
        self.schedule = schedule
        self.collectives = collectives
        self.log = log
        self.evaluate = evaluate
        self.ema = ema
        self.bad_images = bad_images
        self._bad_told: set[str] = set()
        self._network = step.network.network
        self._compiled = False
        self._between_epochs_seconds = 0.0

    @property
    def lr(self) -> float:
        """Learning rate of the latest update; it waits while overflows are skipped."""
        done = self.step.updates_done
        return float(self.schedule[min(max(done - 1, 0), len(self.schedule) - 1)])

    def run(self) -> Summary:
        """Train all epochs.

        Raises:
            TrainingDiverged: if the loss stops being a number; the checkpoints of earlier epochs
                are left as they are.
        """
        summary, started = Summary(), time.perf_counter()
        epochs = self.settings.epochs
        for epoch, batches in enumerate(self._epochs(), start=1):
            stats = self._train_epoch(epoch, batches)
            before = time.perf_counter()
            self._average_statistics()
            due = epoch % self.settings.val_interval == 0 or epoch == epochs
            evaluation = self._validate() if self.evaluate is not None and due else None
            if evaluation is not None:
                stats.compile_seconds += evaluation.compile_seconds
            self._tell_bad_images()
            is_best = self._write(epoch, stats, evaluation)
            if is_best:
                summary.best_top1, summary.best_epoch = evaluation.top1, epoch
            self._between_epochs_seconds = time.perf_counter() - before
            summary.epochs, summary.last = epoch, stats
            summary.compile_seconds += stats.compile_seconds
        # Rank 0 may still be writing; a rank that left now would look like one that died.
        self.collectives.barrier()
        summary.seconds = time.perf_counter() - started
        return summary

    def _epochs(self) -> Iterator[Iterator]:
        """Yield each epoch's batches; in sink mode empty tuples, as the device has its own."""
        epochs = self.settings.epochs
        if not self.settings.sink:
            for epoch in range(epochs):
                yield iter(self.batches.epoch(epoch))
            return
        # The queue to the device is made once a run: a new data set would need a new graph.
        dataset = self.batches.whole_run(0, epochs)
        helper = ms.DatasetHelper(dataset, dataset_sink_mode=True, sink_size=1, epoch_num=1)
        self._sink_step = ms.connect_network_with_dataset(self.step, helper)
        for _ in range(epochs):
            yield _sunk_batches(helper, self.batches.steps_per_epoch)
        helper.stop_send()

    def _train_epoch(self, epoch: int, batches: Iterator) -> EpochStats:
        self.step.set_train()
        stats = EpochStats()
        losses = _LossMean(epoch)
        started = time.perf_counter()
        overflows = []
        micro_steps = 0
        progress = Progress(
            self.batches.steps_per_epoch,
            epoch,
            self.settings.epochs,
            enabled=self.collectives.rank == 0,
            images_per_step=self.batches.images_per_epoch // self.batches.steps_per_epoch,
            log_interval=self.settings.log_interval,
            between_epochs_seconds=self._between_epochs_seconds,
        )
        with progress, contextlib.closing(batches):
            for number, inputs in enumerate(batches, start=1):
                if not self._compiled:
                    stats.compile_seconds += self._compile(inputs)
                loss, finite = self._call(inputs)
                losses.add(loss)
                micro_steps += 1
                last = number == self.batches.steps_per_epoch
                if self.step.accumulates:
                    if micro_steps == self.step.accumulation_steps or last:
                        overflows.append(self.step.update(micro_steps))
                        micro_steps = 0
                else:
                    overflows.append(finite)
                if len(losses.pending) >= self.settings.log_interval or last:
                    losses.fetch()
                    stats.overflows += sum(not bool(each) for each in overflows)
                    overflows.clear()
                progress.update(lambda value=loss: float(value.asnumpy()), lambda: self.lr)
        stats.seconds = time.perf_counter() - started - stats.compile_seconds
        stats.lr = self.lr
        stats.loss = float(self.collectives.gather(np.float64(losses.mean())).mean())
        seconds = self.collectives.gather(np.array([stats.seconds, stats.compile_seconds])).max(0)
        stats.seconds, stats.compile_seconds = float(seconds[0]), float(seconds[1])
        stats.images_per_second = self.batches.images_per_epoch / stats.seconds
        return stats

    def _call(self, inputs):
        if self.settings.sink:
            return self._sink_step()
        return self.step(*inputs)

    def _compile(self, inputs) -> float:
        """Compile before the first step, so that its time isn't taken for training time."""
        self._compiled = True
        if not self.settings.graph_mode or self.settings.sink:
            return 0.0
        started = time.perf_counter()
        self.step.compile(*inputs)
        self.step.compile_update()
        return time.perf_counter() - started

    def _average_statistics(self) -> None:
        """Give all ranks the mean of their BN statistics, so that they evaluate one network."""
        statistics = [p for p in self._saved_parameters() if p.name.endswith(_STATISTICS)]
        self.collectives.average(statistics)

    def _validate(self) -> Evaluation:
        if self.ema is None:
            return self.evaluate()
        with self.ema.applied():
            return self.evaluate()

    def _tell_bad_images(self) -> None:
        for name, reason in self.bad_images().items():
            if name not in self._bad_told:
                self._bad_told.add(name)
                _logger.warning("%s can't be read: %s", name, reason)

    def _write(self, epoch: int, stats: EpochStats, evaluation: Evaluation | None) -> bool:
        if self.log is None:
            return False
        top1 = None if evaluation is None else evaluation.top1
        is_best = self.log.checkpoints.save(
            self._saved_parameters(), epoch, self.batches.steps_per_epoch, top1
        )
        row = {
            "epoch": epoch,
            "step": epoch * self.batches.steps_per_epoch,
            "loss": stats.loss,
            "lr": stats.lr,
            "images_per_second": stats.images_per_second,
            "epoch_seconds": stats.seconds,
            "compile_seconds": stats.compile_seconds,
        }
        if evaluation is not None:
            row.update(val_loss=evaluation.loss, top1=evaluation.top1, topk=evaluation.topk)
        self.log.metrics.append(**row)
        self._write_events(epoch, stats, evaluation)
        _logger.info("%s", self._line(epoch, stats, evaluation, is_best))
        return is_best

    def _write_events(self, epoch: int, stats: EpochStats, evaluation: Evaluation | None) -> None:
        values = {
            "train/loss": stats.loss,
            "train/lr": stats.lr,
            "train/images_per_second": stats.images_per_second,
        }
        if evaluation is not None:
            values["val/loss"] = evaluation.loss
            values["val/top1"] = evaluation.top1
            values[f"val/top{evaluation.k}"] = evaluation.topk
        self.log.events.scalars(epoch, values)

    def _line(self, epoch, stats: EpochStats, evaluation: Evaluation | None, is_best) -> str:
        parts = [f"epoch {epoch}/{self.settings.epochs}: loss {stats.loss:.4f}"]
        if evaluation is not None:
            weights = " (ema)" if self.ema is not None else ""
            parts.append(f"val{weights} loss {evaluation.loss:.4f} top1 {evaluation.top1:.2f} %")
            parts.append(f"top{evaluation.k} {evaluation.topk:.2f} %{' best' if is_best else ''}")
            if evaluation.unreadable:
                parts.append(f"{evaluation.unreadable} unreadable images counted as wrong")
        parts.append(f"{stats.images_per_second:.1f} images/s {format_duration(stats.seconds)}")
        if stats.compile_seconds:
            parts.append(f"compiled in {stats.compile_seconds:.1f} s")
        if stats.overflows:
            parts.append(f"{stats.overflows} updates with overflow, loss scale {self.step.scale:g}")
        return ", ".join(parts)

    def _saved_parameters(self) -> list[ms.Parameter]:
        parameters = list(self._network.get_parameters())
        if self.ema is not None:
            parameters += list(self.ema.averages)
        return parameters


class _LossMean:
    """Adds up losses without waiting for the device at every step."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.pending: list[ms.Tensor] = []
        self._sum = 0.0
        self._count = 0

    def add(self, loss: ms.Tensor) -> None:
        self.pending.append(loss)

    def fetch(self) -> None:
        for loss in self.pending:
            value = float(loss.asnumpy())
            self._count += 1
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"the loss became {value} at step {self._count} of epoch {self.epoch}; the "
                    "checkpoints of the epochs before stand. Try a lower --lr, a longer "
                    "--warmup_epochs, --clip_grad true, or with amp_level O1-O3 a dynamic "
                    "--loss_scale_type."
                )
            self._sum += value
        self.pending.clear()

    def mean(self) -> float:
        return self._sum / self._count


def _sunk_batches(helper, steps: int) -> Iterator[tuple]:
    for _ in range(steps):
        for _ in helper:
            yield ()
