"""The loop around the step: what it measures, when it stops, what it writes."""

from __future__ import annotations

import json
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindcv_ghost.engine import trainer as trainer_module
from mindcv_ghost.engine.checkpoint import CheckpointKeeper
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import StepSettings
from mindcv_ghost.engine.evaluator import Evaluation
from mindcv_ghost.engine.losses import TrainingDiverged
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.resume import ResumeFiles
from mindcv_ghost.engine.saver import Saver
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, TrainStep
from mindcv_ghost.engine.trainer import Trainer, TrainerSettings
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog, read_metrics

from .networks import CLASSES, CrossEntropy, Linear, batch

STEPS = 5
STEP_KEYS = {"save_every_steps", "save_every_minutes", "nan_patience", "in_flight"}


class Batches:
    """Five batches of four; each epoch the same."""

    steps_per_epoch = STEPS
    images_per_epoch = 4 * STEPS

    def __init__(self) -> None:
        self.closed = 0

    def epoch(self, epoch, skip=0):
        try:
            for step in range(skip, STEPS):
                yield batch(4, seed=step)
        finally:
            self.closed += 1

    def whole_run(self, first_epoch, epochs, skip=0):
        return ("data set", first_epoch, epochs, skip)

    def names(self, epoch, step):
        return [f"epoch {epoch} step {step} image {i}" for i in range(4)]


def evaluation(top1: float) -> Evaluation:
    zero = np.zeros((CLASSES, CLASSES), int)
    return Evaluation(100, int(top1), 100, CLASSES, 0.5, 0, 1.0, 0.0, zero, zero[0])


def make(folder, accuracies=(), step=None, ema_decay=None, mode=ms.GRAPH_MODE, **settings):
    ms.set_context(mode=mode)
    network = Linear()
    ema = None if ema_decay is None else EmaWeights(network, ema_decay)
    schedule = [0.1, 0.05, 0.025] * 10
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), schedule, "CPU")
    step = TrainStep(NetworkWithLoss(network, CrossEntropy()), optimizer, ema=ema, **(step or {}))
    saver = Saver(
        MetricsLog(folder / "metrics.csv", CLASSES),
        EventsLog(folder / "events", enabled=False),
        CheckpointKeeper(folder, "linear", 2, "latest_k", 1),
        ResumeFiles(folder / "resume"),
        {"ranks": 1, "updates_per_epoch": 5},
    )
    remaining = iter(accuracies)
    evaluate = (lambda: evaluation(next(remaining))) if accuracies else None
    batches = Batches()
    steps = StepSettings(
        report_folder=folder, **{k: settings.pop(k) for k in STEP_KEYS & {*settings}}
    )
    settings = TrainerSettings(steps=steps, **settings)
    return Trainer(step, batches, settings, schedule, Collectives(), saver, evaluate, ema), batches


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


def test_the_logged_rate_is_that_of_the_latest_update(tmp_path):
    trainer, _ = make(tmp_path, epochs=1)
    trainer.run()
    assert read_metrics(tmp_path / "metrics.csv")[0]["lr"] == pytest.approx(0.05)  # the 5th


def test_the_last_group_of_an_epoch_may_be_short(tmp_path):
    trainer, _ = make(tmp_path, step={"accumulation_steps": 2}, epochs=2)
    trainer.run()
    assert trainer.step.updates_done == 6


def test_the_interval_thins_validations_but_not_the_last(tmp_path):
    trainer, _ = make(tmp_path, accuracies=(50, 60, 70), epochs=5, val_interval=2)
    trainer.run()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["top1"] for row in rows] == [None, 50, None, 60, 70]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
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


def test_a_loss_scale_gets_its_chance_before_a_run_stops(tmp_path):
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


def iter_of(items):
    yield from items


def test_sink_mode_makes_one_queue_and_counts_every_step(tmp_path, monkeypatch):
    # MindSpore has no queue on the CPU: what stands in keeps to DatasetHelper's contract.
    made = []

    class Helper:
        def __init__(self, dataset, dataset_sink_mode, sink_size, epoch_num):
            made.append((dataset, dataset_sink_mode, sink_size, epoch_num))
            self.stopped = False

        def __iter__(self):
            return iter([()])  # sink_size 1: one step each time it is iterated

        def stop_send(self):
            made.append("stopped")

    calls = []

    def connect(step, helper):
        def run():
            calls.append(1)
            return step(*batch(4, seed=len(calls) % STEPS))

        return run

    monkeypatch.setattr(trainer_module.ms, "DatasetHelper", Helper)
    monkeypatch.setattr(trainer_module.ms, "connect_network_with_dataset", connect)
    trainer, _ = make(tmp_path, epochs=3, sink=True)
    trainer.run()
    assert made == [(("data set", 0, 3, 0), True, 1, 1), "stopped"]
    assert len(calls) == 3 * STEPS
    assert trainer.step.updates_done == 15


def test_bad_images_are_named_once(tmp_path, caplog):
    trainer, _ = make(tmp_path, epochs=2)
    trainer.bad_images = lambda: {"a.jpg": "cut"}
    trainer_module._logger.propagate = True
    with caplog.at_level("WARNING"):
        trainer.run()
    assert [r.getMessage() for r in caplog.records] == ["a.jpg can't be read: cut"]


@pytest.mark.parametrize(
    ("mode", "accumulation"),
    [
        pytest.param(ms.GRAPH_MODE, 1, id="graph-1"),
        pytest.param(ms.GRAPH_MODE, 2, id="graph-2", marks=pytest.mark.slow),
        pytest.param(ms.PYNATIVE_MODE, 1, id="pynative-1", marks=pytest.mark.slow),
        pytest.param(ms.PYNATIVE_MODE, 2, id="pynative-2"),
    ],
)
def test_validating_with_averaged_weights_leaves_training_alone(tmp_path, mode, accumulation):
    """With ``Parameter.set_data`` three of these four learnt nothing after a validation."""
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
    ms.set_context(mode=ms.GRAPH_MODE)
    assert ended[0] == ended[1]


def test_updates_are_counted_up():
    assert trainer_module.updates_per_epoch(7, 3) == math.ceil(7 / 3)
