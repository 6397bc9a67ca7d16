"""The training loop: epochs, validation, checkpoints, and the numbers of a run.

A loop of our own around MindSpore cells instead of ``mindspore.train.Model``: Model offers neither
an update every few micro-steps with a schedule to match, nor dynamic loss scale on the CPU, nor a
stop and an exact restart in the middle of an epoch.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import compile_uncached
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import EpochRun, EpochStats, Position, StepSettings
from mindcv_ghost.engine.evaluator import Evaluation
from mindcv_ghost.engine.feeds import BatchSource, HostFeed, SinkFeed
from mindcv_ghost.engine.live_state import LiveState
from mindcv_ghost.engine.saver import DiskError, Saver
from mindcv_ghost.engine.signals import StopSignals, exit_status
from mindcv_ghost.engine.step import TrainStep
from mindcv_ghost.report.progress import format_duration

__all__ = ["Summary", "Trainer", "TrainerSettings", "updates_per_epoch"]

_logger = logging.getLogger(__name__)
_STATISTICS = ("moving_mean", "moving_variance")


@dataclass(frozen=True)
class TrainerSettings:
    """How long, and how often what.

    Args:
        epochs: to train.
        val_interval: epochs between validations; the last epoch is always validated.
        graph_mode: whether steps are compiled.
        sink: let the device fetch its batches from a queue (Ascend and GPU only).
        steps: of the loop inside an epoch.
    """

    epochs: int
    val_interval: int = 1
    graph_mode: bool = True
    sink: bool = False
    steps: StepSettings = field(default_factory=StepSettings)


@dataclass
class Summary:
    """What a run came to; accuracies are in percent.

    Attributes:
        stopped_by: the signal that stopped it before its end, or 0.
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
        """The exit status that tells how it ended."""
        return exit_status(self.stopped_by) if self.stopped_by else 0


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
        saver: where to write; rank 0 only.
        evaluate: validates the network as it is, or None.
        ema: averaged weights; validation then uses them.
        bad_images: tells which images this rank couldn't read so far, and why.
        compile: compiles a cell for inputs; tells whether it found the graph in a cache.
    """

    def __init__(
        self,
        step: TrainStep,
        batches: BatchSource,
        settings: TrainerSettings,
        schedule: list[float],
        collectives: Collectives,
        saver: Saver | None = None,
        evaluate: Callable[[], Evaluation] | None = None,
        ema: EmaWeights | None = None,
        bad_images: Callable[[], dict[str, str]] = dict,
        compile: Callable[..., bool] = compile_uncached,
    ) -> None:
        self.step = step
        self.batches = batches
        self.settings = settings
        self.schedule = schedule
        self.collectives = collectives
        self.saver = saver
        self.evaluate = evaluate
        self.ema = ema
        self.bad_images = bad_images
        self.compile = compile
        self.state = LiveState(step, collectives)
        self.position = Position()
        self.signals = StopSignals()
        self._summary = Summary()
        self._earlier: dict = {}
        self._bad_told: set[str] = set()
        self._network = step.model
        self._between_epochs_seconds = 0.0
        self._started = time.perf_counter()

    def take_up(self, facts: dict, arrays: dict | None, updates: int) -> None:
        """Go on where a state was saved; every rank has to call it.

        Args:
            facts: of the state.
            arrays: of the state, on rank 0.
            updates: an epoch has now. The state may come from a run with another number of ranks,
                and the schedule's place is then that of the same epoch.
        """
        position = facts["position"]
        self.position = Position(position["epoch"], position["step"], position["batches"])
        self.state.put_back(arrays, facts["ranks"] if position["step"] else 1)
        if facts["updates_per_epoch"] != updates:
            count = self.step.updates_done * updates / facts["updates_per_epoch"]
            self.step.set_updates_done(round(count))
        summary = facts["summary"]
        self._earlier = facts["epoch_so_far"]
        self._summary = Summary(position["epoch"], **summary)

    def run(self) -> Summary:
        """Train the epochs that are left.

        Raises:
            TrainingDiverged: if loss, gradients or weights stop being numbers; the checkpoints
                before are left as they are.
            DiskError: if checkpoints can't be saved.
        """
        summary = self._summary
        self._started = time.perf_counter() - summary.seconds
        with self.signals, contextlib.closing(self._feed()) as feed:
            for epoch in range(self.position.epoch + 1, self.settings.epochs + 1):
                stats, stopped = self._train_epoch(epoch, feed)
                if not stopped:
                    self._end_epoch(epoch, stats)
                    self._save(EpochStats())
                    stopped = epoch < self.settings.epochs and self._asked_between_epochs()
                if stopped:
                    summary.stopped_by = self._agree_on_signal()
                    break
        # Rank 0 may still be writing; a rank that left now would look like one that died.
        self.collectives.barrier()
        summary.seconds = time.perf_counter() - self._started
        return summary

    def _feed(self) -> HostFeed | SinkFeed:
        left = self.settings.epochs - self.position.epoch
        left = left * self.batches.steps_per_epoch - self.position.step
        # A single batch has no queue of shapes, by which SinkFeed learns that a batch is there.
        if self.settings.sink and left > 1:
            return SinkFeed(self.step, self.batches, self.settings.epochs)
        compile = self.compile if self.settings.graph_mode else None
        return HostFeed(self.step, self.batches, compile)

    def _train_epoch(self, epoch: int, feed: HostFeed | SinkFeed) -> tuple[EpochStats, bool]:
        run = EpochRun(
            self.step,
            self.settings.steps,
            self.collectives,
            self.signals,
            epoch=epoch,
            epochs=self.settings.epochs,
            source=self.batches,
            position=self.position,
            schedule=self.schedule,
            between_epochs_seconds=self._between_epochs_seconds,
            save=self._save,
        )
        run.continue_from(self._earlier)
        self._earlier = {}
        batches = feed.epoch(epoch - 1, self.position.step)
        stopped = run.train(batches, feed.prepare, feed.run)
        return run.finish(), stopped

    def _end_epoch(self, epoch: int, stats: EpochStats) -> None:
        started = time.perf_counter()
        self._average_statistics()
        last = epoch == self.settings.epochs
        due = epoch % self.settings.val_interval == 0 or last
        evaluation = self._validate() if self.evaluate is not None and due else None
        if evaluation is not None:
            stats.compile_seconds += evaluation.compile_seconds
        self._tell_bad_images()
        self.position.end_epoch()
        summary = self._summary
        summary.epochs, summary.last = epoch, stats
        summary.compile_seconds += stats.compile_seconds
        if self._write(epoch, stats, evaluation):
            summary.best_top1, summary.best_epoch = evaluation.top1, epoch
        self._between_epochs_seconds = time.perf_counter() - started

    def _save(self, so_far: EpochStats) -> None:
        """Save a state; every rank has to call it, rank 0 writes."""
        within_epoch = self.position.step > 0
        sums = self.collectives.gather(np.array([so_far.loss_sum, so_far.losses], np.float64))
        arrays = self.state.take(each_rank=within_epoch)
        if self.saver is None:
            return
        summary = self._summary
        summary.seconds = time.perf_counter() - self._started
        saved = self.saver.save_state(
            arrays,
            {
                "position": vars(self.position).copy(),
                "epoch_so_far": {**so_far.facts(), "sums": sums.tolist()} if within_epoch else {},
                "summary": {
                    "best_top1": summary.best_top1,
                    "best_epoch": summary.best_epoch,
                    "seconds": summary.seconds,
                    "compile_seconds": summary.compile_seconds,
                },
            },
        )
        if not saved and (self.position.epoch == self.settings.epochs or self.signals.number):
            raise DiskError(
                "the run ends without its last state: the disk didn't take it (see above). What "
                "was saved before stands; make room and continue with --resume auto."
            )

    def _asked_between_epochs(self) -> bool:
        return bool(self.collectives.gather(np.array(self.signals.number != 0)).any())

    def _agree_on_signal(self) -> int:
        """The signal that counts, the same on every rank: the one with the highest exit status."""
        numbers = self.collectives.gather(np.array(self.signals.number)).tolist()
        number = max((n for n in numbers if n), key=exit_status, default=int(signal.SIGTERM))
        done, total = self.position.step, self.batches.steps_per_epoch
        where = f"{done} of {total} batches of epoch {self.position.epoch + 1}"
        if not done:
            where = f"epoch {self.position.epoch} of {self.settings.epochs}"
        _logger.info("stopped by %s after %s", signal.Signals(number).name, where)
        return number

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
        if self.saver is None:
            return False
        row = {
            "epoch": epoch,
            "step": self.position.batches,
            "loss": stats.loss,
            "lr": stats.lr,
            "images_per_second": stats.images_per_second,
            "epoch_seconds": stats.seconds,
            "compile_seconds": stats.compile_seconds,
        }
        if evaluation is not None:
            row.update(val_loss=evaluation.loss, top1=evaluation.top1, topk=evaluation.topk)
        steps = self.batches.steps_per_epoch
        is_best = self.saver.end_epoch(self._saved_parameters(), row, steps)
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
        self.saver.events.scalars(epoch, values)

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
