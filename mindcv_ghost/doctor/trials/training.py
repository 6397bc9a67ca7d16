"""A short training with the recipe's precision, optimizer and graphs, on one repeated batch."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.doctor.options import EPOCHS
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, CheckResult
from mindcv_ghost.doctor.trials.batches import RepeatedBatch, make_batch
from mindcv_ghost.doctor.trials.network import build_network
from mindcv_ghost.doctor.trials.session import TrialSession
from mindcv_ghost.engine.trainer import Summary, Trainer, updates_per_epoch
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.run.learner import Learner, create_learner, trainer_settings

__all__ = [
    "MemoryWriter",
    "Prepared",
    "Trained",
    "check_equal_ranks",
    "check_sink_mode",
    "copy_values",
    "describe",
    "judge_losses",
    "prepare",
    "run_trainer",
    "train",
]

_MAX_LOSS_RATIO = 0.9  # the last epoch's loss divided by the first's must be smaller


class MemoryWriter:
    """A ``Writer`` that keeps metrics and one state in memory instead of on disk.

    Args:
        facts: stored in the state beside the trainer's progress.

    Attributes:
        rows: metrics of each epoch.
        arrays: of the state before the last epoch, by name.
        facts: of that state.
    """

    def __init__(self, facts: dict) -> None:
        self.facts = facts
        self.rows: list[dict] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.events = EventsLog("", enabled=False)

    def end_epoch(self, parameters: Sequence[ms.Parameter], row: dict, steps: int) -> bool:
        """Keep an epoch's metrics; no epoch is the best one."""
        self.rows.append(row)
        return False

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict) -> bool:
        """Keep the state before the last epoch."""
        if progress["position"]["epoch"] == EPOCHS - 1:
            # On the CPU an array may share the parameter's memory.
            self.arrays = {name: value.copy() for name, value in arrays.items()}
            self.facts = {**self.facts, **progress}
        return True


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to be trained.

    Args:
        session: what all trials share; its configuration may differ, see :func:`check_sink_mode`.
        learner: step, schedule and EMA.
        batches: the training set.
        log: what the package logged meanwhile.
    """

    session: TrialSession
    learner: Learner
    batches: RepeatedBatch
    log: list[str]

    @property
    def network(self) -> nn.Cell:
        """The network that is trained, without its loss."""
        return self.learner.step.model

    @property
    def updates_per_epoch(self) -> int:
        """Updates of the weights in an epoch."""
        return updates_per_epoch(self.batches.steps_per_epoch, self.learner.step.accumulation_steps)

    def trainer(self, writer: MemoryWriter) -> Trainer:
        """Create a trainer as ``train.py`` does.

        Args:
            writer: used on rank 0.
        """
        session = self.session
        settings = trainer_settings(session.config, session.device)
        steps = dataclasses.replace(settings.steps, log_interval=10**9, report_folder=None)
        return Trainer(
            self.learner.step,
            self.batches,
            dataclasses.replace(settings, steps=steps),
            schedule=self.learner.schedule,
            collectives=session.collectives,
            writer=writer if session.world.is_main else None,
            ema=self.learner.ema,
            compile=self.learner.compile,
        )


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Args:
        prepared: what was trained.
        writer: its metrics, and the state before the last epoch; filled on rank 0 only.
        trainer: the trainer that ran.
        values: everything that training changes, by name, as it was at the end.
    """

    prepared: Prepared
    writer: MemoryWriter
    trainer: Trainer
    values: dict[str, np.ndarray]


def prepare(session: TrialSession) -> Prepared:
    """Build the network and everything that trains it; every rank has to call this."""
    config, world, shape = session.config, session.world, session.shape
    ms.set_seed(config.system.seed)
    log_start = len(session.log)
    steps = session.steps // EPOCHS
    learner = create_learner(
        config,
        world,
        session.device,
        build_network(config, shape.classes),
        session.collectives,
        steps_per_epoch=steps,
    )
    images, labels = make_batch(shape, config.system.seed, world.rank)
    batches = RepeatedBatch(images, labels, steps, world.size)
    return Prepared(session, learner, batches, session.log[log_start:])


def describe(prepared: Prepared) -> CheckResult:
    """Report the network's size, its input and its precision."""
    config, shape = prepared.session.config, prepared.session.shape
    size = sum(p.size for p in prepared.learner.step.weights)
    text = (
        f"{config.model.model}, {size:,} trainable weights, "
        f"{shape.images} images of {shape.height}x{shape.width}, "
        f"{config.amp.amp_level}, {config.optimizer.opt}, "
        f"{'graph' if config.system.mode == 0 else 'PyNative'} mode; {'; '.join(prepared.log)}"
    )
    return CheckResult("network", OK, text, numbers={"weights": size})


def train(prepared: Prepared) -> Trained:
    """Train for all steps; every rank has to call this."""
    ranks = prepared.session.world.size
    writer = MemoryWriter({"ranks": ranks, "updates_per_epoch": prepared.updates_per_epoch})
    trainer = prepared.trainer(writer)
    run_trainer(trainer)
    return Trained(prepared, writer, trainer, copy_values(trainer))


def run_trainer(trainer: Trainer) -> Summary:
    """Run a trainer to its end.

    Raises:
        KeyboardInterrupt: if a signal has stopped it: a signal ends the doctor, too.
    """
    summary = trainer.run()
    if summary.stopped_by:
        raise KeyboardInterrupt
    return summary


def copy_values(trainer: Trainer) -> dict[str, np.ndarray]:
    """Copy everything that training changes, by name."""
    return {name: p.asnumpy().copy() for name, p in trainer.state.parameters.items()}


def judge_losses(what: str, prepared: Prepared, rows: list[dict]) -> CheckResult:
    """Check that the loss of the repeated batch has fallen.

    Args:
        what: the check's name.
        prepared: what was trained.
        rows: metrics of each epoch; empty except on rank 0.
    """
    session, step = prepared.session, prepared.learner.step
    if not session.world.is_main:
        return CheckResult(what, OK)
    first, last = rows[0]["loss"], rows[-1]["loss"]
    speed = statistics.median(row["images_per_second"] for row in rows[1:])
    compile_seconds = sum(row["compile_seconds"] for row in rows)
    skipped = prepared.updates_per_epoch * EPOCHS - step.updates_done
    text = (
        f"{session.steps} steps on one batch: loss {first:.4g} in the first tenth, {last:.4g} in "
        f"the last; compiled in {compile_seconds:.1f} s, {speed:,.1f} images/s"
    )
    if step.skips_overflow:
        text += f", {skipped} updates skipped for overflow, loss scale {step.scale:g}"
    numbers = {
        "first_loss": first,
        "last_loss": last,
        "images_per_second": speed,
        "compile_seconds": compile_seconds,
        "overflows": skipped,
        "loss_scale": step.scale,
    }
    if not last < _MAX_LOSS_RATIO * first:
        remedy = "the loss of a repeated batch must fall: the gradients or the updates are wrong"
        return CheckResult(what, BROKEN, text, remedy, numbers)
    return CheckResult(what, OK, text, numbers=numbers)


def check_equal_ranks(prepared: Prepared) -> CheckResult:
    """Compare the ranks' parameters; every rank has to call this.

    Raises:
        RuntimeError: if they differ; names the ranks.
    """
    what, session = "equal ranks", prepared.session
    if session.world.size == 1:
        return CheckResult(what, SKIPPED, "only one rank")
    session.collectives.assert_equal(prepared.network)
    count = sum(1 for _ in prepared.network.get_parameters())
    return CheckResult(what, OK, f"all {count} parameters have the same bits on all ranks")


def check_sink_mode(session: TrialSession) -> CheckResult:
    """Train again in sink mode, where the device fetches batches from a queue.

    Every rank has to call this.
    """
    what, config = "sink mode", session.config
    if session.device == "CPU" or config.system.mode != 0:
        mode = "the CPU" if session.device == "CPU" else "PyNative mode"
        return CheckResult(what, SKIPPED, f"{mode} has no queue")
    section = dataclasses.replace(config.train, dataset_sink_mode=True)
    with_sink = dataclasses.replace(config, train=section)
    prepared = prepare(dataclasses.replace(session, config=with_sink))
    writer = MemoryWriter({})
    run_trainer(prepared.trainer(writer))
    return judge_losses(what, prepared, writer.rows)
