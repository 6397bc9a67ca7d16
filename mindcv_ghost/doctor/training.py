"""A short training by the recipe's precision, optimizer and graphs, on a batch that is repeated."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.config import Config
from mindcv_ghost.doctor import reference
from mindcv_ghost.doctor.comparison import LOSS, compared
from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, Finding
from mindcv_ghost.doctor.synthetic import Shape, batch_of
from mindcv_ghost.doctor.usage import EPOCHS
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.parameters import assign_parameter
from mindcv_ghost.engine.trainer import Summary, Trainer
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.logs import LOGGER_NAME
from mindcv_ghost.run.learner import Learner, create_learner, trainer_settings
from mindcv_ghost.run.model import create_network

__all__ = ["Recorder", "RepeatedBatch", "Trial", "built", "collect_log"]

_CLASSES = 10
_REFERENCE_IMAGES = 8  # of a rank, for the comparison with the CPU: a host has few cores
# Where the network is compared, every batch norm's output is centred at 2 instead of 0, so that
# ReLUs let 98 % of the values through. With random weights and half of the values cut off, rounding
# is amplified from layer to layer: ghost_resnet50's gradients in float16 then have nothing in
# common with those in float32 (off by 1.3 of their norm on the CPU; two orders of adding in float32
# differ by 0.05), and no comparison could tell right from wrong.
_CENTRE = 2.0
# A loss scale at which no gradient of a network's first step overflows float16.
_SAFE_SCALE = 128.0
_FALL = 0.9  # the last part's loss by the first's has to be less


def built(config: Config, classes: int) -> nn.Cell:
    """The recipe's network with random weights, and without what draws masks.

    Dropout and stochastic depth would make two computations of one loss differ.
    """
    network, _ = create_network(config.model, classes, load_initial_weights=False)
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Dropout):
            cell.p = 0.0
            cell.keep_prob = 1.0
        elif type(cell).__name__ == "DropPath":
            cell.keep_prob = 1.0
    return network


def collect_log() -> list[str]:
    """Let the package's log go into a list instead of the terminal; gives the list."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    for name in (LOGGER_NAME, "mindcv"):
        logger = logging.getLogger(name)
        logger.handlers = [Collect()]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == LOGGER_NAME else logging.WARNING)
    return lines


class RepeatedBatch:
    """One batch as often as it is asked for: a rank's training set (``engine.feeds``).

    Args:
        image, label: the batch.
        steps: batches in a part of the run.
        ranks: processes, for the count of images.
    """

    def __init__(self, image: np.ndarray, label: np.ndarray, steps: int, ranks: int) -> None:
        self.image, self.label, self.steps_per_epoch = image, label, steps
        self.images_per_epoch = len(image) * steps * ranks

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[ms.Tensor, ms.Tensor]]:
        """The batches of one part."""
        for _ in range(self.steps_per_epoch - skip):
            # New ones, as a loader's are: a device has to fetch each.
            yield ms.Tensor(self.image), ms.Tensor(self.label)

    def whole_run(self, first_epoch: int, epochs: int, skip: int = 0) -> SimpleNamespace:
        """All of them as one pipeline, for sink mode."""
        rows = _Rows(self.image, self.label, epochs * self.steps_per_epoch - skip)
        names = ["image", "label"]
        dataset = ds.GeneratorDataset(rows, names, shuffle=False, num_parallel_workers=1)
        return SimpleNamespace(dataset=dataset, check=lambda batch: None)

    def names(self, epoch: int, step: int) -> list[str]:
        """They have none."""
        return []


@dataclass(frozen=True)
class _Rows:
    image: np.ndarray
    label: np.ndarray
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.image, self.label


class Recorder:
    """Stands in for a RunWriter: keeps each part's numbers, and the state before the last part.

    Args:
        facts: what a state has to hold beside the progress.
    """

    def __init__(self, facts: dict) -> None:
        self.facts = facts
        self.rows: list[dict] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.events = SimpleNamespace(scalars=lambda epoch, values: None)

    def end_epoch(self, parameters: list[ms.Parameter], row: dict, steps: int) -> bool:
        """Keep a part's numbers; no part is the best."""
        self.rows.append(row)
        return False

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict) -> bool:
        """Keep the state of the last part but one."""
        if progress["position"]["epoch"] == EPOCHS - 1:
            # On the CPU an array may be the parameter's own memory.
            self.arrays = {name: value.copy() for name, value in arrays.items()}
            self.facts = {**self.facts, **progress}
        return True


class _Probe(nn.Cell):
    """Loss and averaged gradients of a step, which is left as it is."""

    def __init__(self, step: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, image, label):
        (_, loss), gradients = self.step.value_and_grad(self.step.check.start(image), label)
        return loss, self.step.updater.reducer(gradients)


@dataclass
class Trial:
    """A network in training, and what the checks found out about it.

    Args:
        config: as ``usage.examined`` gives it.
        world: this process among its job's.
        device: Ascend, GPU or CPU.
        steps: to train.
        log: what the package has logged.
    """

    config: Config
    world: World
    device: str
    steps: int
    log: list[str]
    collectives: Collectives = field(init=False)
    learner: Learner | None = None
    batches: RepeatedBatch | None = None
    recorder: Recorder | None = None
    trainer: Trainer | None = None
    final: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.collectives = Collectives(self.world.rank, self.world.size)

    @property
    def shape(self) -> Shape:
        """Of a rank's batch."""
        side = self.config.augment.image_resize
        height, width = side if isinstance(side, tuple) else (side, side)
        return Shape(
            self.config.dataset.batch_size,
            self.config.model.in_channels,
            height,
            width,
            self.config.model.num_classes or _CLASSES,
            one_hot=self.config.loss.loss in ("BCE", "asl_multi_label"),
        )

    def prepare(self) -> Finding:
        """Build the network and what trains it; every rank has to call it."""
        self.learner, self.batches, told = self._learner(self.config)
        size = sum(p.size for p in self.learner.step.weights)
        shape = self.shape
        text = (
            f"{self.config.model.model}, {size:,} weights in training, "
            f"{shape.images} images of {shape.height}x{shape.width}, "
            f"{self.config.amp.amp_level}, {self.config.optimizer.opt}, "
            f"{'graph' if self.config.system.mode == 0 else 'PyNative'} mode; {told}"
        )
        return Finding("network", OK, text, numbers={"weights": size})

    def _learner(self, config: Config) -> tuple[Learner, RepeatedBatch, str]:
        ms.set_seed(config.system.seed)
        start = len(self.log)
        shape = self.shape
        network = built(config, shape.classes)
        steps = self.steps // EPOCHS
        learner = create_learner(
            config, self.world, self.device, network, self.collectives, steps_per_epoch=steps
        )
        image, label = batch_of(shape, config.system.seed, self.world.rank)
        batches = RepeatedBatch(image, label, steps, self.world.size)
        return learner, batches, "; ".join(self.log[start:])

    def compare(self) -> Finding:
        """Hold loss and gradients of the first step against the CPU's in float32.

        Every rank has to call it; rank 0 has the reference computed.
        """
        step = self.learner.step
        shape = dataclasses.replace(self.shape, images=min(self.shape.images, _REFERENCE_IMAGES))
        if self.config.loss.loss == "jsd":
            shape = dataclasses.replace(shape, images=6)
        before = {p.name: p.asnumpy().copy() for p in step.get_parameters()}
        names = {p.name for p in step.network_with_loss.get_parameters()}
        weights = {name: value for name, value in before.items() if name in names}
        for parameter in step.network_with_loss.get_parameters():
            owner, _, last = parameter.name.rpartition("beta")
            if f"{owner}moving_mean" in names and not last:
                weights[parameter.name] = np.full(parameter.shape, _CENTRE, np.float32)
                assign_parameter(parameter, weights[parameter.name])
        scale = min(step.scale, _SAFE_SCALE)
        assign_parameter(step.updater.scale, np.array(scale, np.float32))
        step.set_train()
        inputs = [ms.Tensor(x) for x in batch_of(shape, self.config.system.seed, self.world.rank)]
        probe = _Probe(step)
        if self.config.system.mode == 0:
            self.learner.compile(probe, *inputs)
        loss, gradients = probe(*inputs)
        mean = self.collectives.sum(loss.asnumpy().reshape(1)) / self.world.size
        got = {LOSS: mean[0]}
        for parameter, gradient in zip(step.weights, gradients):
            got[parameter.name] = gradient.asnumpy().astype(np.float64) / scale
        for parameter in step.get_parameters():
            assign_parameter(parameter, before[parameter.name])
        what = "loss and gradients"
        if not self.world.is_main:
            return Finding(what, OK)
        with tempfile.TemporaryDirectory() as folder:
            expected = reference.compute(
                *(Path(folder), self.config, weights, shape, self.world.size, 3000.0)
            )
        return compared(got, expected, rough=self.device != "CPU" or self._is_half, scale=scale)

    @property
    def _is_half(self) -> bool:
        return self.config.amp.amp_level != "O0"

    def train(self) -> Finding:
        """Train, and see the loss fall; every rank has to call it."""
        self.recorder = Recorder({"ranks": self.world.size, "updates_per_epoch": self.updates})
        self.trainer = self.new_trainer(self.learner, self.batches, self.config, self.recorder)
        self.run(self.trainer)
        self.final = self.values(self.trainer)
        what = "training"
        return self._judged(what, self.recorder.rows, self.learner)

    @property
    def updates(self) -> int:
        """In a part."""
        return -(-self.batches.steps_per_epoch // self.learner.step.accumulation_steps)

    @staticmethod
    def values(trainer: Trainer) -> dict[str, np.ndarray]:
        """Everything that training has changed so far."""
        return {name: p.asnumpy().copy() for name, p in trainer.state.parameters.items()}

    def new_trainer(
        self, learner: Learner, batches: RepeatedBatch, config: Config, recorder: Recorder
    ) -> Trainer:
        """A trainer as train.py has it, with a recorder for a writer on rank 0."""
        settings = trainer_settings(config, self.device)
        steps = dataclasses.replace(settings.steps, log_interval=10**9, report_folder=None)
        return Trainer(
            learner.step,
            batches,
            dataclasses.replace(settings, steps=steps),
            schedule=learner.schedule,
            collectives=self.collectives,
            writer=recorder if self.world.is_main else None,
            ema=learner.ema,
            compile=learner.compile,
        )

    @staticmethod
    def run(trainer: Trainer) -> Summary:
        """Train; a signal to stop, which a training handles, ends the doctor."""
        summary = trainer.run()
        if summary.stopped_by:
            raise KeyboardInterrupt
        return summary

    def _judged(self, what: str, rows: list[dict], learner: Learner) -> Finding:
        if not self.world.is_main:
            return Finding(what, OK)
        first, last = rows[0]["loss"], rows[-1]["loss"]
        speed = statistics.median(row["images_per_second"] for row in rows[1:])
        compiled = sum(row["compile_seconds"] for row in rows)
        left_out = self.updates * EPOCHS - learner.step.updates_done
        text = (
            f"{self.steps} steps on one batch: loss {first:.4g} in the first tenth, {last:.4g} in "
            f"the last; compiled in {compiled:.1f} s, {speed:,.1f} images/s"
        )
        if learner.step.skips_overflow:
            text += f", {left_out} updates left out for overflow, loss scale {learner.step.scale:g}"
        numbers = {
            "first_loss": first,
            "last_loss": last,
            "images_per_second": speed,
            "compile_seconds": compiled,
            "overflows": left_out,
            "loss_scale": learner.step.scale,
        }
        if not last < _FALL * first:
            remedy = (
                "on a batch that is repeated the loss has to fall: gradients or updates are wrong"
            )
            return Finding(what, BROKEN, text, remedy, numbers)
        return Finding(what, OK, text, numbers=numbers)

    def equal(self) -> Finding:
        """Hold the ranks' parameters against each other; every rank has to call it."""
        what = "equal ranks"
        if self.world.size == 1:
            return Finding(what, SKIPPED, "one rank has nobody to differ from")
        network = self.learner.step.model
        self.collectives.assert_equal(network)
        count = sum(1 for _ in network.get_parameters())
        return Finding(what, OK, f"all {count} parameters have the same bits on all ranks")

    def sink(self) -> Finding:
        """Train again with a queue that the device fetches from; every rank has to call it."""
        what = "sink mode"
        if self.device == "CPU" or self.config.system.mode != 0:
            why = "the CPU has no queue" if self.device == "CPU" else "PyNative mode has no queue"
            return Finding(what, SKIPPED, why)
        train = dataclasses.replace(self.config.train, dataset_sink_mode=True)
        config = dataclasses.replace(self.config, train=train)
        learner, batches, _ = self._learner(config)
        recorder = Recorder({})
        self.run(self.new_trainer(learner, batches, config, recorder))
        return self._judged(what, recorder.rows, learner)
