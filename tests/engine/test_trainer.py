"""The training loop: what it measures, when it stops, what it writes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import signal
import time
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.engine import epoch as epoch_module
from mindcv_ghost.engine import feeds
from mindcv_ghost.engine import trainer as trainer_module
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.divergence import TrainingDiverged
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import StepSettings
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.run_writer import RunWriter
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, TrainStep
from mindcv_ghost.engine.trainer import Trainer, TrainerSettings
from mindcv_ghost.errors import DataError
from mindcv_ghost.report.evaluation import Evaluation
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog, read_metrics
from mindcv_ghost.storage.checkpoint_manager import CheckpointManager
from mindcv_ghost.storage.resume_folder import ResumeFolder, find_state

from .networks import CLASSES, CrossEntropy, Linear, batch

STEPS = 5
STEP_KEYS = {"save_every_steps", "save_every_minutes", "nan_patience", "in_flight"}


class Batches:
    """Five batches of four images, the same in each epoch."""

    steps_per_epoch = STEPS
    images_per_epoch = 4 * STEPS

    def __init__(self) -> None:
        self.closed = 0
        self.failing = None

    def epoch(self, epoch, skip=0):
        try:
            for step in range(skip, STEPS):
                yield batch(4, seed=step)
        finally:
            self.closed += 1

    def whole_run(self, first_epoch, epochs, skip=0):
        return SimpleNamespace(dataset=("data set", first_epoch, epochs, skip), check=self._check)

    def _check(self, number):
        if number == self.failing:
            raise DataError(f"batch {number} can't be made")

    def names(self, epoch, step):
        return [f"epoch {epoch} step {step} image {i}" for i in range(4)]


def evaluation(top1: float) -> Evaluation:
    zero = np.zeros((CLASSES, CLASSES), int)
    return Evaluation(100, int(top1), 100, CLASSES, 0.5, 0, 1.0, 0.0, zero, zero[0])


def make(folder, accuracies=(), step=None, ema_decay=None, mode=ms.GRAPH_MODE, **settings):
    ms.set_context(mode=mode)
    network = Linear()
    ema = None if ema_decay is None else EmaWeights(network, ema_decay)
    schedule = [0.1, 0.05, 0.025] * 100
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), schedule, "CPU")
    step = TrainStep(NetworkWithLoss(network, CrossEntropy()), optimizer, ema=ema, **(step or {}))
    writer = RunWriter(
        MetricsLog(folder / "metrics.csv", CLASSES),
        EventsLog(folder / "events", enabled=False),
        CheckpointManager(folder, "linear", 2, "latest_k", 1),
        ResumeFolder(folder / "resume"),
        {"ranks": 1, "updates_per_epoch": 5},
        settings["epochs"],
    )
    remaining = iter(accuracies)
    evaluate = (lambda: evaluation(next(remaining))) if accuracies else None
    batches = Batches()
    steps = StepSettings(
        report_folder=folder, **{k: settings.pop(k) for k in STEP_KEYS & {*settings}}
    )
    settings = TrainerSettings(steps=steps, **settings)
    trainer = Trainer(
        step,
        batches,
        settings,
        schedule=schedule,
        collectives=Collectives(),
        writer=writer,
        evaluate=evaluate,
        ema=ema,
    )
    return trainer, batches


def test_each_epoch_writes_a_row_and_ends_its_batches(tmp_path):
    trainer, batches = make(tmp_path, accuracies=(50, 70, 60), epochs=3)
    summary = trainer.run()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert [row["top1"] for row in rows] == [50, 70, 60]
    assert rows[2]["loss"] < rows[0]["loss"]
    assert (summary.best_top1, summary.best_epoch, summary.epochs) == (70, 2, 3)
    assert batches.closed == 3
    assert rows[0]["compile_seconds"] > 0
    assert rows[1]["compile_seconds"] == 0


@pytest.mark.parametrize(
    ("val_loss", "has_bn", "explained"),
    [(5623.0, True, True), (4.0, True, False), (5623.0, False, False)],
)
def test_a_validation_that_bn_spoils_is_explained_in_the_log(
    tmp_path, monkeypatch, caplog, val_loss, has_bn, explained
):
    """A loss far above chance and above the training loss: ln 10 is 2.3."""
    trainer, _ = make(tmp_path, accuracies=(10,), epochs=1)
    worse = dataclasses.replace(evaluation(10), loss=val_loss)
    trainer.evaluate = lambda: worse
    if has_bn:
        statistics = ms.Parameter(Tensor(np.ones(3, np.float32)), name="bn.moving_variance")
        monkeypatch.setattr(trainer, "_statistics", lambda: [statistics])
    with caplog.at_level("INFO"):
        trainer.run()
    assert ("BN's running statistics lag behind the weights" in caplog.text) == explained


def test_the_logged_rate_is_that_of_the_latest_update(tmp_path):
    trainer, _ = make(tmp_path, epochs=1)
    trainer.run()
    assert read_metrics(tmp_path / "metrics.csv")[0]["lr"] == pytest.approx(0.05)  # the 5th


def test_the_last_accumulated_group_of_an_epoch_may_be_short(tmp_path):
    trainer, _ = make(tmp_path, step={"accumulation_steps": 2}, epochs=2)
    trainer.run()
    assert trainer.step.updates_done == 6


def test_val_interval_skips_validations_but_never_the_last(tmp_path):
    trainer, _ = make(tmp_path, accuracies=(50, 60, 70), epochs=5, val_interval=2)
    trainer.run()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["top1"] for row in rows] == [None, 50, None, 60, 70]


def test_a_nan_loss_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    trainer, batches = make(tmp_path, epochs=3)
    epoch = batches.epoch
    bad = (Tensor(np.full((4, 4), np.nan, np.float32)), Tensor(np.zeros(4, np.int32)))
    batches.epoch = lambda n, skip: epoch(n) if n == 0 else iter_of([bad] * STEPS)
    with pytest.raises(TrainingDiverged, match="the loss became nan at step 1 of epoch 2"):
        trainer.run()
    assert len(read_metrics(tmp_path / "metrics.csv")) == 1
    assert {p.name for p in tmp_path.glob("*.ckpt")} == {"last.ckpt", "linear-1_5.ckpt"}
    assert [p.name for p in (tmp_path / "resume").iterdir()] == ["000001_epoch1_step0.safetensors"]
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert (report["epoch"], report["step"], report["global_step"]) == (2, 1, 6)
    assert (report["loss_scale"], report["latest_losses"]) == (1.0, ["nan"])
    assert report["lr"] == pytest.approx(0.025)
    assert report["images"][0] == "epoch 1 step 0 image 0"


def test_a_dynamic_loss_scale_may_fall_before_the_run_stops(tmp_path):
    scale = LossScale(4.0, dynamic=True)
    trainer, batches = make(tmp_path, epochs=1, nan_patience=2, step={"loss_scale": scale})
    huge = (Tensor(np.full((4, 4), np.inf, np.float32)), Tensor(np.zeros(4, np.int32)))
    good = batch(4, seed=1)
    batches.epoch = lambda n, skip: iter_of([huge, good, huge, good, good])
    trainer.run()
    assert trainer.step.updates_done == 3
    trainer, batches = make(tmp_path, epochs=1, nan_patience=2, step={"loss_scale": scale})
    batches.epoch = lambda n, skip: iter_of([good, huge, huge, good, good])
    with pytest.raises(TrainingDiverged, match="2 updates in a row.*at step 3 of epoch 1"):
        trainer.run()


def large(value: float) -> tuple[Tensor, Tensor]:
    """One image with a finite loss, whose gradient overflows if ``value * scale`` does."""
    image = np.array([[value, 0, 0, 0]], np.float32)
    return Tensor(image), Tensor(np.zeros(1, np.int32))


@pytest.mark.parametrize("in_flight", [0, 2])
def test_no_overflow_counts_that_lowers_the_scale_not_even_the_one_that_makes_it_1(
    tmp_path, in_flight
):
    how = {"epochs": 1, "nan_patience": 1, "in_flight": in_flight}
    trainer, batches = make(tmp_path, step={"loss_scale": LossScale(4.0, dynamic=True)}, **how)
    good = batch(1, seed=1)
    batches.epoch = lambda n, skip: iter_of([large(2e38), large(2e38), good, good, good])
    trainer.run()
    assert (trainer.step.scale, trainer.step.updates_done) == (1.0, 3)
    assert trainer.watch.overflows == 2


@pytest.mark.parametrize(
    ("accumulation", "images"),
    [(1, "the batch"), (2, "the last batch of the group (gradient_accumulation_steps)")],
)
def test_the_report_of_an_overflow_says_which_batch_it_lists(tmp_path, accumulation, images):
    step = {"loss_scale": LossScale(4.0), "accumulation_steps": accumulation}
    trainer, batches = make(tmp_path, step=step, epochs=1)
    batches.epoch = lambda n, skip: iter_of([large(2e38)] + [batch(1, seed=1)] * (STEPS - 1))
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    told = f"the gradients became infinite or NaN at step {accumulation} of epoch 1"
    assert str(caught.value).startswith(told)
    assert f" {tmp_path / 'diverged.json'} has the images of {images}. " in str(caught.value)
    report = json.loads((tmp_path / "diverged.json").read_text())
    assert report["images"][0] == f"epoch 0 step {accumulation - 1} image 0"


def test_updates_that_are_skipped_in_a_row_count_across_epochs_and_a_resume(tmp_path):
    scale = LossScale(4.0, skip_overflow=True)
    huge = (Tensor(np.full((4, 4), np.inf, np.float32)), Tensor(np.zeros(4, np.int32)))
    how = {"epochs": 9, "nan_patience": 2 * STEPS + 2, "step": {"loss_scale": scale}}
    trainer, batches = make(tmp_path, **how)

    def stop_after_an_epoch(n, skip):
        trainer.signals.number = signal.SIGTERM if n == 1 else 0
        return iter_of([huge] * (STEPS - skip))

    batches.epoch = stop_after_an_epoch
    assert trainer.run().status == 143
    again, batches = make(tmp_path, **how)
    state = find_state("auto", tmp_path)
    arrays = state.read(again.state.expected_arrays(1))
    again.restore(state.facts, arrays, STEPS)
    batches.epoch = lambda n, skip: iter_of([huge] * (STEPS - skip))
    with pytest.raises(TrainingDiverged, match="12 updates in a row.*at step 2 of epoch 3"):
        again.run()


def test_a_request_to_save_that_comes_with_an_epoch_s_last_update_is_answered_once(
    tmp_path, monkeypatch
):
    now, saved = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr(epoch_module, "time", clock)
    trainer, batches = make(tmp_path, epochs=2, save_every_minutes=1.0)
    epoch = batches.epoch

    def late(n, skip):
        for step, inputs in enumerate(epoch(n, skip)):
            if (n, step) == (0, STEPS - 1):
                now[0] += 61
            yield inputs

    batches.epoch = late

    def save_state(arrays, progress):
        saved.append((progress["position"]["epoch"], progress["position"]["step"]))
        return True

    monkeypatch.setattr(trainer.writer, "save_state", save_state)
    trainer.run()
    assert saved == [(1, 0), (2, 0)]


def iter_of(items):
    yield from items


class ShapeQueue:
    """Simulates the queue in which MindSpore keeps the shapes of the batches that it has sent.

    It holds 128 shapes, and sending blocks while it is full (MindSpore 2.8,
    ``train/dataset_helper.py``, makes it for ``sink_size=1``). Only
    ``connect_network_with_dataset`` takes something out.
    """

    def __init__(self, monkeypatch) -> None:
        self.made, self.calls, self.compiled = [], [], []
        self.waiting = 0
        queue = self

        class Helper:
            def __init__(self, dataset, dataset_sink_mode, sink_size, epoch_num):
                queue.made.append((dataset, dataset_sink_mode, sink_size, epoch_num))

            def __iter__(self):
                return iter([()])  # sink_size 1: one step each time it is iterated

            def stop_send(self):
                queue.made.append("stopped")

            def release(self):
                queue.made.append("released")

        class Sunk(nn.Cell):
            """The network that MindSpore connects to the queue; it fetches a batch itself."""

            def __init__(self, step) -> None:
                super().__init__(auto_prefix=False)
                self.set_train(False)
                self.step = step

            def compile(self):
                queue.compiled.append(self.phase)

            def __call__(self):
                # A device without a batch would wait for ever.
                assert queue.waiting < 128, "nothing is sent any more: 128 shapes are waiting"
                queue.waiting += 1
                queue.calls.append(self.phase)
                return self.step(*batch(4, seed=len(queue.calls) % STEPS))

        networks = {}

        def connect(step, helper):
            queue.waiting = max(0, queue.waiting - 1)
            return networks.setdefault(id(step), Sunk(step))

        monkeypatch.setattr(feeds.ms, "DatasetHelper", Helper)
        monkeypatch.setattr(feeds.ms, "connect_network_with_dataset", connect)


def test_sink_mode_trains_on_more_than_the_128_batches_whose_shapes_mindspore_queues(
    tmp_path, monkeypatch
):
    queue = ShapeQueue(monkeypatch)
    trainer, _ = make(tmp_path, epochs=60, sink=True)
    trainer.run()
    assert queue.made == [(("data set", 0, 60, 0), True, 1, 1), "stopped", "released"]
    assert len(queue.calls) == 60 * STEPS == 300
    assert trainer.step.updates_done == 300


def test_sink_mode_compiles_once_in_training_mode_and_measures_the_time(tmp_path, monkeypatch):
    queue = ShapeQueue(monkeypatch)
    monkeypatch.setattr(feeds.time, "perf_counter", itertools.count().__next__)
    trainer, _ = make(tmp_path, epochs=2, sink=True)
    trainer.run()
    assert queue.compiled == ["train"]
    assert set(queue.calls) == {"train"}
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["compile_seconds"] for row in rows] == [1, 0]


def test_sink_mode_stops_at_the_batch_that_could_not_be_made(tmp_path, monkeypatch):
    queue = ShapeQueue(monkeypatch)
    trainer, batches = make(tmp_path, epochs=2, sink=True)
    batches.failing = 7
    with pytest.raises(DataError, match="batch 7"):
        trainer.run()
    assert len(queue.calls) == 7
    assert queue.made[1:] == ["stopped", "released"]


def test_a_single_remaining_batch_is_fed_by_the_host(tmp_path, monkeypatch):
    """MindSpore makes no queue of shapes for a single batch, and sink mode needs that queue."""
    queue = ShapeQueue(monkeypatch)
    trainer, batches = make(tmp_path, epochs=1, sink=True)
    trainer.position.step = trainer.position.batches = STEPS - 1
    trainer.run()
    assert (queue.made, queue.calls, trainer.step.updates_done) == ([], [], 1)


def test_bad_images_are_named_once(tmp_path, caplog):
    trainer, _ = make(tmp_path, epochs=2)
    trainer.bad_images = lambda: {"a.jpg": "cut"}
    with caplog.at_level("WARNING"):
        trainer.run()
    assert [r.getMessage() for r in caplog.records] == ["a.jpg can't be read: cut"]


@pytest.mark.parametrize(
    ("mode", "accumulation"),
    [
        pytest.param(ms.GRAPH_MODE, 1, id="graph-1"),
        pytest.param(ms.GRAPH_MODE, 2, id="graph-2", marks=pytest.mark.slow),
        pytest.param(ms.PYNATIVE_MODE, 1, id="pynative-1", marks=pytest.mark.slow),
        pytest.param(ms.PYNATIVE_MODE, 2, id="pynative-2", marks=pytest.mark.slow),
    ],
)
def test_validating_with_averaged_weights_doesnt_change_training(tmp_path, mode, accumulation):
    """With ``Parameter.set_data`` three of these four stopped learning after a validation."""
    ended = []
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        trainer, _ = make(
            tmp_path / name,
            accuracies=(50, 60, 70) if name == "with" else (),
            step={"accumulation_steps": accumulation},
            ema_decay=0.9,
            mode=mode,
            epochs=3,
        )
        trainer.run()
        ended.append({n: p.asnumpy().tolist() for n, p in trainer.state.parameters.items()})
    assert ended[0] == ended[1]


def test_a_short_group_counts_as_an_update():
    assert trainer_module.updates_per_epoch(7, 3) == math.ceil(7 / 3)
