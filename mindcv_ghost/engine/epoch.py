"""One epoch of training, from any of its batches on, to its end or to where it is stopped."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.divergence import DivergenceMonitor, TrainingDiverged
from mindcv_ghost.engine.feeds import BatchSource
from mindcv_ghost.engine.signals import StopSignals
from mindcv_ghost.engine.step import Outcome, TrainStep
from mindcv_ghost.report.progress import Progress
from mindcv_ghost.storage.atomic_file import write_bytes

__all__ = ["EpochRun", "EpochStats", "Position", "StepSettings"]


@dataclass(frozen=True)
class StepSettings:
    """How the loop inside an epoch goes.

    Args:
        log_interval: batches between progress lines.
        save_every_steps: batches between states saved within an epoch, or None.
        save_every_minutes: minutes between them, or None.
        nan_patience: updates in a row without usable numbers that may be skipped.
        in_flight: batches that may be under way on the device before the loop waits for their
            results; 0 where computing is synchronous anyway.
        report_folder: where a run whose numbers go wrong leaves its report, or None.
    """

    log_interval: int = 100
    save_every_steps: int | None = None
    save_every_minutes: float | None = None
    nan_patience: int = 1
    in_flight: int = 0
    report_folder: Path | None = None


@dataclass
class Position:
    """How far a run has come: whole epochs, batches of the next one, batches in all."""

    epoch: int = 0
    step: int = 0
    batches: int = 0

    def advance(self) -> None:
        """Count a batch."""
        self.step += 1
        self.batches += 1

    def end_epoch(self) -> None:
        """Count an epoch, whose batches have been counted."""
        self.epoch += 1
        self.step = 0


@dataclass
class EpochStats:
    """What an epoch came to, or has come to so far."""

    loss: float = float("nan")
    lr: float = float("nan")
    seconds: float = 0.0
    compile_seconds: float = 0.0
    overflows: int = 0
    images_per_second: float = 0.0
    loss_sum: float = 0.0
    losses: int = 0

    def facts(self) -> dict:
        """What a resumed epoch has to know that is the same on every rank."""
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
        signals: whether somebody wants the run to stop.
        epoch, epochs: number of this one, from 1, and of all.
        source: of the batches.
        position: of the run; is advanced.
        schedule: learning rate of every update of the run.
        between_epochs_seconds: what an epoch costs beside its steps.
        save: saves a state at the current position.
    """

    def __init__(
        self,
        step: TrainStep,
        settings: StepSettings,
        collectives: Collectives,
        signals: StopSignals,
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
        self.watch = DivergenceMonitor(settings.nan_patience, step.skips_overflow)
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
        self._under_way: deque = deque()
        self._group = 0
        self._said = self._heard = (False, False)
        self._saved_at_step = position.step
        self._saved_at_time = time.monotonic()

    def continue_from(self, so_far: dict) -> None:
        """Take up an epoch that was stopped; ``so_far`` as a state holds it, or empty."""
        if not so_far:
            return
        self._stats.compile_seconds = so_far["compile_seconds"]
        self._started -= so_far["seconds"] + so_far["compile_seconds"]
        total, count = so_far["sums"][self.collectives.rank]
        self.watch.total, self.watch.count = total, int(count)
        self.watch.overflows = so_far["overflows"]

    @property
    def lr(self) -> float:
        """Learning rate of the latest update; it waits while overflows are skipped."""
        done = self.step.updates_done
        return float(self.schedule[min(max(done - 1, 0), len(self.schedule) - 1)])

    def train(self, batches: Iterator, prepare: Callable, call: Callable) -> bool:
        """Train on what is left of the epoch.

        Args:
            batches: from the position on.
            prepare: compiles the step for such inputs if need be, and gives the seconds it took.
            call: runs one step on what ``batches`` yields.

        Returns:
            Whether it was stopped: the state is saved, and the process should end.

        Raises:
            TrainingDiverged: if numbers went wrong for good.
        """
        self.step.set_train()
        with self.progress, contextlib.closing(batches):
            for inputs in batches:
                self._stats.compile_seconds += prepare(inputs)
                self._ask()
                loss, outcome = call(inputs)
                self.position.advance()
                outcome = self._update(outcome)
                self._under_way.append((self.position.step, loss, outcome))
                self._settle(self.settings.in_flight)
                self.progress.update(lambda value=loss: float(value.asnumpy()), lambda: self.lr)
                if outcome is not None and self._save_if_due():
                    return True
            self._settle(0)
        return False

    def finish(self) -> EpochStats:
        """Give the epoch's numbers, the same on every rank."""
        stats = self._so_far()
        stats.lr = self.lr
        means = self.collectives.gather(np.float64(self.watch.mean))
        stats.loss = float(means.mean())
        seconds = self.collectives.gather(np.array([stats.seconds, stats.compile_seconds])).max(0)
        stats.seconds, stats.compile_seconds = float(seconds[0]), float(seconds[1])
        stats.images_per_second = self.source.images_per_epoch / max(stats.seconds, 1e-9)
        return stats

    def _so_far(self) -> EpochStats:
        stats = self._stats
        stats.seconds = time.perf_counter() - self._started - stats.compile_seconds
        stats.overflows = self.watch.overflows
        stats.loss_sum, stats.losses = self.watch.total, self.watch.count
        return stats

    def _ask(self) -> None:
        """Tell the other ranks, with the coming update, what this one wants."""
        minutes = self.settings.save_every_minutes
        waited = time.monotonic() - self._saved_at_time
        save = self.collectives.rank == 0 and minutes is not None and waited >= 60 * minutes
        wanted = (self.signals.number != 0, save)
        if wanted != self._said:
            self.step.request(*wanted)
            self._said = wanted

    def _update(self, outcome):
        """End a group of accumulated batches if it is time; None if it isn't."""
        if not self.step.accumulates:
            return outcome
        self._group += 1
        last = self.position.step == self.source.steps_per_epoch
        if self._group < self.step.accumulation_steps and not last:
            return None
        group, self._group = self._group, 0
        return self.step.update(group)

    def _settle(self, in_flight: int) -> None:
        """Wait for all batches but the latest few, and look at what came of them.

        Every rank waits for the same batches at the same place, and so hears the same requests.
        """
        while len(self._under_way) > in_flight:
            step, loss, values = self._under_way.popleft()
            problem = self.watch.add_loss(float(loss.asnumpy()))
            if values is not None and problem is None:
                outcome = Outcome.read(values)
                can_fall = not outcome.finite and self.step.scale_can_fall
                problem = self.watch.add_update(outcome.finite, can_fall)
                stop, save = self._heard
                self._heard = (stop or outcome.stop, save or outcome.save)
            if problem is not None:
                raise self._diverged(problem, step)

    def _save_if_due(self) -> bool:
        """Save behind an update if somebody wants it; tells whether somebody wants to stop."""
        stop, save = self._heard
        every = self.settings.save_every_steps
        due = every is not None and self.position.step - self._saved_at_step >= every
        ends = self.position.step == self.source.steps_per_epoch
        if not stop and (ends or not (due or save)):
            return False
        self._settle(0)
        stop, self._heard = self._heard[0], (False, False)
        self._saved_at_step = self.position.step
        self.save(self._so_far())
        self._saved_at_time = time.monotonic()
        return stop

    def _diverged(self, problem: str, step: int) -> TrainingDiverged:
        """Write down what is known of a run whose numbers went wrong."""
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
        name = "diverged.json" if rank == 0 else f"diverged_rank{rank}.json"
        told = ""
        if self.settings.report_folder is not None:
            path = self.settings.report_folder / name
            with contextlib.suppress(OSError):
                write_bytes(path, (json.dumps(facts, indent=2) + "\n").encode())
                told = f" {path} has the images of the batch."
        return TrainingDiverged(
            f"{problem} at step {step} of epoch {self.epoch} (lr {facts['lr']:g}, loss scale "
            f"{facts['loss_scale']:g}).{told} The checkpoints before stand. Try a lower --lr, a "
            "longer --warmup_epochs, --clip_grad true, or with amp_level O1-O3 a dynamic "
            "--loss_scale_type."
        )
