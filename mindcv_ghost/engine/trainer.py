"""The training loop: epochs, validation, checkpoints and metrics.

This loop replaces ``mindspore.train.Model``, which lacks gradient accumulation with a matching
schedule, a dynamic loss scale on the CPU, and an exact resume within an epoch.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import Compile, compile_uncached
from mindcv_ghost.engine.divergence import DivergenceMonitor
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import EpochRun, EpochStats, Position, StepSettings
from mindcv_ghost.engine.feeds import BatchSource, HostFeed, SinkFeed
from mindcv_ghost.engine.run_writer import DiskError, Writer
from mindcv_ghost.engine.signals import StopSignals, exit_status
from mindcv_ghost.engine.step import TrainStep
from mindcv_ghost.engine.step_state import StepState
from mindcv_ghost.report.evaluation import Evaluation
from mindcv_ghost.report.progress import format_duration

__all__ = ["Summary", "Trainer", "TrainerSettings", "updates_per_epoch"]

_logger = logging.getLogger(__name__)
_STATISTICS = ("moving_mean", "moving_variance")
_LAGGING = 10  # times the training loss


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of the training loop.

    Args:
        epochs: number of epochs of the run.
        val_interval: epochs between validations; the last epoch is always validated.
        graph_mode: whether steps are compiled.
        sink: whether the device fetches its batches from a queue (Ascend and GPU only).
        steps: settings of the loop inside an epoch.
    """

    epochs: int
    val_interval: int = 1
    graph_mode: bool = True
    sink: bool = False
    steps: StepSettings = field(default_factory=StepSettings)


@dataclass
class Summary:
    """Results of a run; accuracies are in percent, times in seconds.

    Attributes:
        epochs: that are done.
        best_top1: highest validation accuracy, None without validation.
        best_epoch: the epoch of that accuracy.
        seconds: duration of the run, stopped and resumed parts added up.
        compile_seconds: of it spent compiling.
        stopped_by: the signal that stopped the run before its end, or 0.
        last: numbers of the last epoch.
    """

    epochs: int = 0
    best_top1: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    stopped_by: int = 0
    last: EpochStats = field(default_factory=EpochStats)

    @property
    def status(self) -> int:
        """The exit status for the end of the run."""
        return exit_status(self.stopped_by) if self.stopped_by else 0


def updates_per_epoch(micro_steps: int, accumulation_steps: int) -> int:
    """Count an epoch's updates; the last group of accumulated batches may be shorter.

    >>> updates_per_epoch(10, 4), updates_per_epoch(8, 4), updates_per_epoch(3, 1)
    (3, 2, 3)
    """
    return -(-micro_steps // accumulation_steps)


class Trainer:
    """Trains a network, validates it and saves its checkpoints.

    Args:
        step: the training step.
        batches: this rank's share of the training set.
        settings: see :class:`TrainerSettings`.
        schedule: learning rate of every update of the run.
        collectives: to the other ranks.
        writer: writes the run's files, on rank 0; else None.
        evaluate: evaluates the network with its current weights; None for no validation.
        ema: averaged weights, with which the network is then validated; or None.
        bad_images: returns the images that this rank couldn't read so far, and why.
        compile: ``compile(cell, *inputs) -> bool``: whether the graph came from a cache.

    Attributes:
        state: what a saved state holds of the step.
        position: how far the run has come.
        signals: requests to stop.
        watch: the losses, and whether they have diverged.
    """

    def __init__(
        self,
        step: TrainStep,
        batches: BatchSource,
        settings: TrainerSettings,
        *,
        schedule: list[float],
        collectives: Collectives,
        writer: Writer | None = None,
        evaluate: Callable[[], Evaluation] | None = None,
        ema: EmaWeights | None = None,
        bad_images: Callable[[], dict[str, str]] = dict,
        compile: Compile = compile_uncached,
    ) -> None:
        self.step = step
        self.batches = batches
        self.settings = settings
        self.schedule = schedule
        self.collectives = collectives
        self.writer = writer
        self.evaluate = evaluate
        self.ema = ema
        self.bad_images = bad_images
        self.compile = compile
        self.state = StepState(step, collectives)
        self.position = Position()
        self.signals = StopSignals()
        self.watch = DivergenceMonitor(settings.steps.nan_patience, step.skips_overflow)
        self._is_saved = True
        self._summary = Summary()
        self._unfinished_epoch: dict[str, Any] = {}
        self._reported_images: set[str] = set()
        self._between_epochs_seconds = 0.0
        self._started = time.perf_counter()

    def restore(
        self,
        facts: dict[str, Any],
        arrays: Mapping[str, np.ndarray] | None,
        updates_per_epoch: int,
    ) -> None:
        """Restore a saved state; every rank has to call it.

        Args:
            facts: of the state.
            arrays: of the state, on rank 0; None on the other ranks.
            updates_per_epoch: of this run. If the state comes from a run with another number of
                ranks, the position in the schedule is converted.
        """
        position = facts["position"]
        self.position = Position(position["epoch"], position["step"], position["batches"])
        self.state.restore(arrays, facts["ranks"] if position["step"] else 1)
        if facts["updates_per_epoch"] != updates_per_epoch:
            done = self.step.updates_done * updates_per_epoch / facts["updates_per_epoch"]
            self.step.set_updates_done(round(done))
        self._unfinished_epoch = facts["epoch_so_far"]
        self.watch.bad_in_a_row = facts.get("bad_in_a_row", 0)
        self._summary = Summary(position["epoch"], **facts["summary"])

    def run(self) -> Summary:
        """Train the remaining epochs; every rank has to call it.

        Raises:
            TrainingDiverged: if loss, gradients or weights are no finite numbers any more; the
                earlier checkpoints are kept.
            DiskError: if checkpoints can't be saved, or the last of them couldn't.
        """
        summary = self._summary
        self._started = time.perf_counter() - summary.seconds
        with self.signals, contextlib.closing(self._feed()) as feed:
            for epoch in range(self.position.epoch + 1, self.settings.epochs + 1):
                stats, stopped = self._train_epoch(epoch, feed)
                if not stopped:
                    self._end_epoch(epoch, stats)
                    self._save(EpochStats())
                    stopped = epoch < self.settings.epochs and self._any_rank_signalled()
                if stopped:
                    summary.stopped_by = self._agree_on_signal()
                    break
        if not self._is_saved:
            raise DiskError(
                "the run ends, and not all of its last files could be written (see above). Earlier "
                "states are kept; free some space and continue with --resume auto."
            )
        # Rank 0 may still be writing. A rank that left now would be taken for a dead one.
        self.collectives.barrier()
        summary.seconds = time.perf_counter() - self._started
        return summary

    def _feed(self) -> HostFeed | SinkFeed:
        epochs_left = self.settings.epochs - self.position.epoch
        batches_left = epochs_left * self.batches.steps_per_epoch - self.position.step
        # MindSpore makes no queue of shapes for a single batch, and SinkFeed needs that queue.
        if self.settings.sink and batches_left > 1:
            return SinkFeed(self.step, self.batches, self.settings.epochs)
        compile = self.compile if self.settings.graph_mode else None
        return HostFeed(self.step, self.batches, compile)

    def _train_epoch(self, epoch: int, feed: HostFeed | SinkFeed) -> tuple[EpochStats, bool]:
        run = EpochRun(
            self.step,
            self.settings.steps,
            self.collectives,
            self.signals,
            self.watch,
            epoch=epoch,
            epochs=self.settings.epochs,
            source=self.batches,
            position=self.position,
            schedule=self.schedule,
            between_epochs_seconds=self._between_epochs_seconds,
            save=self._save,
        )
        run.resume_from(self._unfinished_epoch)
        self._unfinished_epoch = {}
        batches = feed.epoch(epoch - 1, self.position.step)
        stopped = run.train(batches, feed.prepare, feed.run)
        return run.finish(), stopped

    def _end_epoch(self, epoch: int, stats: EpochStats) -> None:
        started = time.perf_counter()
        self._average_statistics()
        last = epoch == self.settings.epochs
        due = epoch % self.settings.val_interval == 0 or last
        evaluation = self._validate() if due else None
        if evaluation is not None:
            stats.compile_seconds += evaluation.compile_seconds
        self._log_bad_images()
        self.position.end_epoch()
        summary = self._summary
        summary.epochs, summary.last = epoch, stats
        summary.compile_seconds += stats.compile_seconds
        is_best = False
        if self.writer is not None:
            is_best = self._write_epoch(self.writer, epoch, stats, evaluation)
        if is_best and evaluation is not None:
            summary.best_top1, summary.best_epoch = evaluation.top1, epoch
        self._between_epochs_seconds = time.perf_counter() - started

    def _save(self, stats: EpochStats) -> None:
        """Save a state; every rank has to call it, and rank 0 writes.

        Args:
            stats: of the current epoch so far; ignored at the end of an epoch.
        """
        within_epoch = self.position.step > 0
        own = np.array([stats.loss_sum, stats.losses, *stats.part_sums], np.float64)
        sums = self.collectives.gather(own)
        arrays = self.state.snapshot(each_rank=within_epoch)
        if self.writer is None or arrays is None:
            return
        summary = self._summary
        summary.seconds = time.perf_counter() - self._started
        self._is_saved = self.writer.save_state(
            arrays,
            {
                "position": vars(self.position).copy(),
                "bad_in_a_row": self.watch.bad_in_a_row,
                "epoch_so_far": {**stats.facts(), "sums": sums.tolist()} if within_epoch else {},
                "summary": {
                    "best_top1": summary.best_top1,
                    "best_epoch": summary.best_epoch,
                    "seconds": summary.seconds,
                    "compile_seconds": summary.compile_seconds,
                },
            },
        )

    def _any_rank_signalled(self) -> bool:
        return bool(self.collectives.gather(np.array(self.signals.number != 0)).any())

    def _agree_on_signal(self) -> int:
        """Choose the signal with the highest exit status, the same on every rank, and log it."""
        numbers = self.collectives.gather(np.array(self.signals.number)).tolist()
        number = max((n for n in numbers if n), key=exit_status, default=int(signal.SIGTERM))
        done, total = self.position.step, self.batches.steps_per_epoch
        where = f"{done} of {total} batches of epoch {self.position.epoch + 1}"
        if not done:
            where = f"epoch {self.position.epoch} of {self.settings.epochs}"
        _logger.info("stopped by %s after %s", signal.Signals(number).name, where)
        return number

    def _average_statistics(self) -> None:
        """Average the BN statistics over the ranks, so that all ranks evaluate one network."""
        self.collectives.average(self._statistics())

    def _statistics(self) -> list[ms.Parameter]:
        return [p for p in self._saved_parameters() if p.name.endswith(_STATISTICS)]

    def _validate(self) -> Evaluation | None:
        if self.evaluate is None:
            return None
        if self.ema is None:
            return self.evaluate()
        with self.ema.applied():
            return self.evaluate()

    def _log_bad_images(self) -> None:
        for name, reason in self.bad_images().items():
            if name not in self._reported_images:
                self._reported_images.add(name)
                _logger.warning("%s can't be read: %s", name, reason)

    def _write_epoch(
        self, writer: Writer, epoch: int, stats: EpochStats, evaluation: Evaluation | None
    ) -> bool:
        """Write and log the end of an epoch; returns whether it is the best one so far."""
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.position.batches,
            "loss": stats.loss,
            **_loss_parts(stats),
            "lr": stats.lr,
            "images_per_second": stats.images_per_second,
            "epoch_seconds": stats.seconds,
            "compile_seconds": stats.compile_seconds,
        }
        if evaluation is not None:
            row.update(val_loss=evaluation.loss, top1=evaluation.top1, topk=evaluation.topk)
        steps = self.batches.steps_per_epoch
        is_best = writer.end_epoch(self._saved_parameters(), row, steps)
        writer.events.scalars(epoch, _event_values(stats, evaluation))
        _logger.info("%s", self._epoch_line(epoch, stats, evaluation, is_best))
        return is_best

    def _epoch_line(
        self, epoch: int, stats: EpochStats, evaluation: Evaluation | None, is_best: bool
    ) -> str:
        losses = f"loss {stats.loss:.4f}"
        if stats.soft_loss is not None:
            losses += f" (hard {stats.hard_loss:.4f}, soft {stats.soft_loss:.4f})"
        parts = [f"epoch {epoch}/{self.settings.epochs}: {losses}"]
        if evaluation is not None:
            weights = " (ema)" if self.ema is not None else ""
            parts.append(f"val{weights} loss {evaluation.loss:.4f} top1 {evaluation.top1:.2f} %")
            parts.append(f"top{evaluation.k} {evaluation.topk:.2f} %{' best' if is_best else ''}")
            if self._statistics_lag(stats, evaluation):
                parts.append(
                    "val loss far above the training's because BN's running statistics lag behind "
                    "the weights (docs/training.md)"
                )
            if evaluation.unreadable:
                parts.append(f"{evaluation.unreadable} unreadable images counted as wrong")
        parts.append(f"{stats.images_per_second:.1f} images/s {format_duration(stats.seconds)}")
        if stats.compile_seconds:
            parts.append(f"compiled in {stats.compile_seconds:.1f} s")
        if stats.overflows:
            parts.append(f"{stats.overflows} updates with overflow, loss scale {self.step.scale:g}")
        return ", ".join(parts)

    def _statistics_lag(self, stats: EpochStats, evaluation: Evaluation) -> bool:
        """Whether validation is worse than overfitting or chance could make it.

        Chance gives ln(classes), 7 for ImageNet. ghost_resnet50 on digits had a loss of 3,287 after
        its first 44 updates from ordinary initial weights, and of 2.0 with the same weights and BN
        statistics that were recomputed over the training images.
        """
        far = evaluation.loss > _LAGGING * max(stats.loss, 1)
        return far and bool(self._statistics())

    def _saved_parameters(self) -> list[ms.Parameter]:
        parameters = list(self.step.model.get_parameters())
        if self.ema is not None:
            parameters += list(self.ema.averages)
        return parameters


def _loss_parts(stats: EpochStats) -> dict[str, float | None]:
    """Name the parts of an epoch's loss; without a teacher it has none."""
    if stats.soft_loss is None:
        return {}
    return {"hard_loss": stats.hard_loss, "soft_loss": stats.soft_loss}


def _event_values(stats: EpochStats, evaluation: Evaluation | None) -> dict[str, float | None]:
    """Collect what TensorBoard shows of an epoch."""
    values: dict[str, float | None] = {
        "train/loss": stats.loss,
        **{f"train/{name}": value for name, value in _loss_parts(stats).items()},
        "train/lr": stats.lr,
        "train/images_per_second": stats.images_per_second,
    }
    if evaluation is not None:
        values["val/loss"] = evaluation.loss
        values["val/top1"] = evaluation.top1
        values[f"val/top{evaluation.k}"] = evaluation.topk
    return values
