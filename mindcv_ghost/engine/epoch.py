"""One epoch of training: from its start or a resumed position to its end or a stop."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.divergence import DivergenceMonitor, TrainingDiverged
from mindcv_ghost.engine.feeds import BatchSource
from mindcv_ghost.engine.signals import StopSignals
from mindcv_ghost.engine.step import Outcome, TrainStep
from mindcv_ghost.report.progress import Progress
from mindcv_ghost.storage.atomic_file import write_bytes
from mindcv_ghost.storage.run_folder import divergence_report

__all__ = ["EpochRun", "EpochStats", "Position", "StepSettings"]


@dataclass(frozen=True)
class StepSettings:
    """Settings of the loop inside an epoch.

    Args:
        log_interval: batches between progress lines.
        save_every_steps: batches between states saved within an epoch, or None.
        save_every_minutes: minutes between them, or None.
        nan_patience: skipped updates in a row after which a run counts as diverged; those that
            lower a dynamic loss scale don't count.
        in_flight: batches that the device may be computing before the loop waits for their
            results; 0 where computation is synchronous.
        report_folder: where a diverged run writes its report, or None.
    """

    log_interval: int = 100
    save_every_steps: int | None = None
    save_every_minutes: float | None = None
    nan_patience: int = 1
    in_flight: int = 0
    report_folder: Path | None = None


@dataclass
class Position:
    """Progress of a run: whole epochs, batches of the epoch after them, batches in total."""

    epoch: int = 0
    step: int = 0
    batches: int = 0

    def advance(self) -> None:
        """Count one batch."""
        self.step += 1
        self.batches += 1

    def end_epoch(self) -> None:
        """Count one epoch, after its batches have been counted."""
        self.epoch += 1
        self.step = 0


@dataclass
class EpochStats:
    """Numbers of an epoch, or of its batches so far.

    ``hard_loss`` and ``soft_loss`` are the parts of the loss in a training with a teacher, else
    None; ``part_sums`` are their sums and the number of batches in them, else empty.
    """

    loss: float = float("nan")
    hard_loss: float | None = None
    soft_loss: float | None = None
    lr: float = float("nan")
    seconds: float = 0.0
    compile_seconds: float = 0.0
    overflows: int = 0
    images_per_second: float = 0.0
    loss_sum: float = 0.0
    losses: int = 0
    part_sums: tuple[float, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Give the numbers that a resumed epoch needs and that are the same on every rank."""
        return {
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "overflows": self.overflows,
        }


class EpochRun:
    """Trains one epoch.

    Args:
        step: the compiled step.
        settings: see :class:`StepSettings`.
        collectives: to the other ranks.
        signals: requests to stop the run.
        watch: of the run; the sums of this epoch begin.
        epoch: number of this epoch, from 1.
        epochs: number of epochs of the run.
        source: of the batches.
        position: of the run; is advanced.
        schedule: learning rate of every update of the run.
        between_epochs_seconds: duration of validation and saving between two epochs.
        save: saves a state at the current position.
    """

    def __init__(
        self,
        step: TrainStep,
        settings: StepSettings,
        collectives: Collectives,
        signals: StopSignals,
        watch: DivergenceMonitor,
        *,
        epoch: int,
        epochs: int,
        source: BatchSource,
        position: Position,
        schedule: list[float],
        between_epochs_seconds: float,
        save: Callable[[EpochStats], None],
    ) -> None:
        self.step, self.settings, self.collectives = step, settings, collectives
        self.signals, self.source, self.position = signals, source, position
        self.schedule, self.epoch, self.save = schedule, epoch, save
        self.watch = watch
        watch.start_epoch()
        self.progress = Progress(
            source.steps_per_epoch,
            epoch,
            epochs,
            enabled=collectives.rank == 0,
            done_steps=position.step,
            images_per_step=source.images_per_epoch // source.steps_per_epoch,
            log_interval=settings.log_interval,
            between_epochs_seconds=between_epochs_seconds,
        )
        self._stats = EpochStats()
        self._started = time.perf_counter()
        self._in_flight: deque = deque()
        self._group = 0
        # (stop, save): what this rank has requested, and what any rank has, as of an update.
        self._requested = self._agreed = (False, False)
        self._saved_at_step = position.step
        self._saved_at_time = time.monotonic()

    def resume_from(self, saved: dict[str, Any]) -> None:
        """Continue the numbers of an epoch that was stopped.

        Args:
            saved: ``epoch_so_far`` of a state; empty at the start of an epoch.
        """
        if not saved:
            return
        self._stats.compile_seconds = saved["compile_seconds"]
        self._started -= saved["seconds"] + saved["compile_seconds"]
        total, count, *parts = saved["sums"][self.collectives.rank]
        self.watch.total, self.watch.count = total, int(count)
        if parts:  # none if there was no teacher
            self.watch.parts = parts[0], parts[1], int(parts[2])
        self.watch.overflows = saved["overflows"]

    @property
    def lr(self) -> float:
        """Learning rate of the latest update; skipped updates don't advance it."""
        done = self.step.updates_done
        return float(self.schedule[min(max(done - 1, 0), len(self.schedule) - 1)])

    def train(self, batches: Generator, prepare: Callable, call: Callable) -> bool:
        """Train on the rest of the epoch.

        Args:
            batches: the epoch's batches from the position on.
            prepare: compiles the step for a batch where needed; returns the seconds it took.
            call: runs one step on a batch.

        Returns:
            Whether it was stopped. The state is then saved, and the process should end.

        Raises:
            TrainingDiverged: if loss or gradients are no finite numbers and skipping updates
                doesn't help.
        """
        self.step.set_train()
        with self.progress, contextlib.closing(batches):
            for inputs in batches:
                self._stats.compile_seconds += prepare(inputs)
                self._request()
                loss, outcome = call(inputs)
                self.position.advance()
                outcome = self._update(outcome)
                self._in_flight.append((self.position.step, loss, outcome))
                self._settle(self.settings.in_flight)
                self.progress.update(_number_of(loss), lambda: self.lr)
                if outcome is not None and self._save_if_due():
                    return True
            self._settle(0)
        # The end of the epoch answers a request that came with its last updates.
        self._pass_on((False, False))
        return False

    def finish(self) -> EpochStats:
        """Return the epoch's numbers, the same on every rank."""
        stats = self._current_stats()
        stats.lr = self.lr
        means = np.array([self.watch.mean, *self.watch.part_means], np.float64)
        stats.loss, hard, soft = self.collectives.gather(means).mean(0).tolist()
        if self.step.teacher is not None:
            stats.hard_loss, stats.soft_loss = hard, soft
        seconds = self.collectives.gather(np.array([stats.seconds, stats.compile_seconds])).max(0)
        stats.seconds, stats.compile_seconds = float(seconds[0]), float(seconds[1])
        stats.images_per_second = self.source.images_per_epoch / max(stats.seconds, 1e-9)
        return stats

    def _current_stats(self) -> EpochStats:
        stats = self._stats
        stats.seconds = time.perf_counter() - self._started - stats.compile_seconds
        stats.overflows = self.watch.overflows
        stats.loss_sum, stats.losses = self.watch.total, self.watch.count
        stats.part_sums = () if self.step.teacher is None else self.watch.parts
        return stats

    def _request(self) -> None:
        """Pass this rank's wish to stop or to save to the other ranks, with the next update."""
        minutes = self.settings.save_every_minutes
        waited = time.monotonic() - self._saved_at_time
        save = self.collectives.rank == 0 and minutes is not None and waited >= 60 * minutes
        self._pass_on((self.signals.number != 0, save))

    def _pass_on(self, requested: tuple[bool, bool]) -> None:
        if requested != self._requested:
            self.step.request(*requested)
            self._requested = requested

    def _update(self, outcome):
        """Update after the last batch of an accumulated group; returns None within a group."""
        if not self.step.accumulates:
            return outcome
        self._group += 1
        last = self.position.step == self.source.steps_per_epoch
        if self._group < self.step.accumulation_steps and not last:
            return None
        group, self._group = self._group, 0
        return self.step.update(group)

    def _settle(self, in_flight: int) -> None:
        """Wait until no more than ``in_flight`` batches are being computed, and check the others.

        All ranks wait for the same batches at the same point, so they see the same requests.
        """
        while len(self._in_flight) > in_flight:
            step, loss, values = self._in_flight.popleft()
            images = "the batch"
            problem = self.watch.add_loss(*loss.asnumpy().reshape(-1).tolist())
            if values is not None and problem is None:
                outcome = Outcome.read(values)
                problem = self.watch.add_update(outcome.finite, outcome.scale_fell)
                if self.step.accumulates:
                    images = "the last batch of the group (gradient_accumulation_steps)"
                stop, save = self._agreed
                self._agreed = (stop or outcome.stop, save or outcome.save)
            if problem is not None:
                raise self._diverged(problem, step, images)

    def _save_if_due(self) -> bool:
        """Save after an update if a rank has requested it; returns whether one asks to stop."""
        stop, save = self._agreed
        every = self.settings.save_every_steps
        due = every is not None and self.position.step - self._saved_at_step >= every
        ends = self.position.step == self.source.steps_per_epoch
        if not stop and (ends or not (due or save)):
            return False
        self._settle(0)
        stop, self._agreed = self._agreed[0], (False, False)
        self._saved_at_step = self.position.step
        self.save(self._current_stats())
        self._saved_at_time = time.monotonic()
        return stop

    def _diverged(self, problem: str, step: int, images: str) -> TrainingDiverged:
        """Write a report of a diverged run, and create the error that names it.

        Args:
            problem: what was seen.
            step: number of the batch, from 1, or of the last one of an accumulated group: an
                overflow is the group's, and may be of any of its batches.
            images: which batch's images the report has.
        """
        rank = self.collectives.rank
        facts = {
            "problem": problem,
            "epoch": self.epoch,
            "step": step,
            "global_step": self.position.batches - self.position.step + step,
            "lr": self.lr,
            "loss_scale": self.step.scale,
            "rank": rank,
            "latest_losses": [str(loss) for loss in self.watch.recent],
            "images": self.source.names(self.epoch - 1, step - 1),
        }
        report = ""
        if self.settings.report_folder is not None:
            path = self.settings.report_folder / divergence_report(rank)
            with contextlib.suppress(OSError):
                write_bytes(path, (json.dumps(facts, indent=2) + "\n").encode())
                report = f" {path} has the images of {images}."
        return TrainingDiverged(
            f"{problem} at step {step} of epoch {self.epoch} (lr {facts['lr']:g}, loss scale "
            f"{facts['loss_scale']:g}).{report} The earlier checkpoints are kept. Try a lower "
            "--lr, a longer --warmup_epochs, --clip_grad true, or with amp_level O1-O3 a dynamic "
            "--loss_scale_type."
        )


def _number_of(loss: ms.Tensor) -> Callable[[], float]:
    """Return a function that fetches a loss, without its parts, from the device."""
    return lambda: float(loss.asnumpy().flat[0])
