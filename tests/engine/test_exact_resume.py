"""A run that is stopped anywhere and resumed gives the results of a whole run, bit for bit."""

from __future__ import annotations

import signal

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.epoch import StepSettings
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.run_writer import DiskError, RunWriter, check_space
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, TrainStep
from mindcv_ghost.engine.trainer import Trainer, TrainerSettings
from mindcv_ghost.report.evaluation import Evaluation
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.storage import atomic_file as files
from mindcv_ghost.storage import checkpoint_manager
from mindcv_ghost.storage.checkpoint_manager import CheckpointManager
from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.storage.resume_folder import ResumeFolder, find_state

from .networks import CLASSES, CrossEntropy

STEPS, EPOCHS, WIDTH = 5, 3, 16
# The other tests here use momentum.
MORE_OPTIMIZERS = ("adan", "momentum", "sgd", "rmsprop", "lion", "nadam", "adagrad")
BATCHES = tuple(range(EPOCHS * STEPS))


# In PyNative mode MindSpore 2.8 isn't reproducible: of 25 equal runs of this network, several
# had losses that differed in the last bit.
pytestmark = pytest.mark.usefixtures("graph_mode")


class Wide(nn.Cell):
    """``(N, 16) -> (N, 16)``.

    The width is a multiple of 8 because MindSpore 2.8 tries different splits of a kernel in its
    first calls on the CPU, and exp, log and sqrt round the elements after a split's last multiple
    of 8 differently.
    """

    def __init__(self) -> None:
        super().__init__()
        weight = np.linspace(-0.5, 0.5, WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH)
        self.classifier = nn.Dense(WIDTH, WIDTH, ms.Tensor(weight), has_bias=False)

    def construct(self, x):
        return self.classifier(x)


def batch(seed: int) -> tuple[ms.Tensor, ms.Tensor]:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    return ms.Tensor(image), ms.Tensor(rng.integers(0, WIDTH, WIDTH).astype(np.int32))


class Batches:
    """Different batches in each epoch, one of which overflows; calls ``at`` before each batch."""

    steps_per_epoch = STEPS
    images_per_epoch = WIDTH * STEPS

    def __init__(self, at) -> None:
        self.at = at

    def epoch(self, epoch, skip=0):
        for step in range(skip, STEPS):
            self.at(epoch, step)
            image, label = batch(10 * epoch + step)
            yield (image * np.inf if (epoch, step) == (0, 2) else image), label

    def whole_run(self, first_epoch, epochs, skip=0):
        raise AssertionError("sink mode")

    def names(self, epoch, step):
        return []


def evaluation(network) -> Evaluation:
    """Accuracies that are computed from the weights, so that a wrong best epoch is noticed."""
    weight = network.classifier.weight.asnumpy()
    return of_100(int(np.nan_to_num(weight).clip(0).sum() * 1000) % 100)


def of_100(correct: int) -> Evaluation:
    zero = np.zeros((CLASSES, CLASSES), int)
    return Evaluation(100, correct, 100, CLASSES, 0.5, 0, 1.0, 0.0, zero, zero[0])


def have_accuracies(trainer, *values: int) -> None:
    """Let a trainer's next validations have these accuracies."""
    left = iter(values)
    trainer.evaluate = lambda: of_100(next(left))


def make(
    folder, at=lambda *_: None, accumulation=2, opt="momentum", epochs=EPOCHS, decay=0.9, **steps
):
    network = Wide()
    schedule = [0.1 * decay**n for n in range(epochs * STEPS)]
    optimizer = create_optimizer(network, OptimizerSettings(opt), schedule, "CPU")
    ema = EmaWeights(network, 0.9)
    step = TrainStep(
        NetworkWithLoss(network, CrossEntropy()),
        optimizer,
        LossScale(64.0, dynamic=True, window=3),
        ema=ema,
        accumulation_steps=accumulation,
    )
    updates = -(-STEPS // accumulation)
    writer = RunWriter(
        MetricsLog(folder / "metrics.csv", CLASSES),
        EventsLog(folder / "events", enabled=False),
        CheckpointManager(folder, "linear", 2, "top_k", 1),
        ResumeFolder(folder / "resume"),
        {"ranks": 1, "updates_per_epoch": updates},
        epochs,
    )
    settings = TrainerSettings(epochs=epochs, steps=StepSettings(nan_patience=3, **steps))
    trainer = Trainer(
        step,
        Batches(at),
        settings,
        schedule=schedule,
        collectives=Collectives(),
        writer=writer,
        evaluate=lambda: evaluation(network),
        ema=ema,
    )
    return trainer, updates


def resume(folder, where="auto", **how):
    trainer, updates = make(folder, **how)
    state = find_state(where, folder)
    trainer.restore(state.facts, state.read(trainer.state.expected_arrays(1)), updates)
    trainer.writer.restore(state.facts, state.path)
    trainer.writer.give_up_after(state.path)
    return trainer


def outcome(trainer, folder) -> tuple:
    """What must be equal: all arrays, the rows without their times, the checkpoints' names."""
    arrays = {name: p.asnumpy().tobytes() for name, p in trainer.state.parameters.items()}
    rows = [line.split(",")[:7] for line in (folder / "metrics.csv").read_text().splitlines()]
    return arrays, rows, sorted(path.name for path in folder.glob("*.ckpt"))


def stop_at(trainer, place):
    def at(epoch, step):
        if (epoch, step) == place:
            trainer.signals.number = int(signal.SIGTERM)

    trainer.batches.at = at


@pytest.mark.parametrize(
    ("accumulation", "in_flight", "stops"),
    [
        # At the overflow, and at the last batch of an epoch.
        pytest.param(1, 0, (2, 9), id="1-0"),
        # In the first half of a group, and where what is in flight ends the run.
        pytest.param(2, 2, (2, 13), id="2-2"),
        pytest.param(1, 0, BATCHES, id="1-0 every batch", marks=pytest.mark.slow),
        pytest.param(2, 2, BATCHES, id="2-2 every batch", marks=pytest.mark.slow),
    ],
)
def test_a_stop_after_any_batch_changes_nothing(tmp_path, accumulation, in_flight, stops):
    how = {"accumulation": accumulation, "in_flight": in_flight}
    (tmp_path / "whole").mkdir()
    whole, _ = make(tmp_path / "whole", **how)
    whole.run()
    wanted = outcome(whole, tmp_path / "whole")
    assert len(wanted[1]) == EPOCHS + 1
    for number in stops:
        folder = tmp_path / f"stopped{number}"
        folder.mkdir()
        trainer, _ = make(folder, **how)
        stop_at(trainer, divmod(number, STEPS))
        summary = trainer.run()
        if number + accumulation + in_flight < EPOCHS * STEPS:
            assert summary.status == 143
            assert number < trainer.position.batches <= number + accumulation + in_flight
        again = resume(folder, **how)
        assert again.run().status == 0
        assert outcome(again, folder) == wanted


@pytest.mark.parametrize(
    "opt", ["adamw", *(pytest.param(opt, marks=pytest.mark.slow) for opt in MORE_OPTIMIZERS)]
)
def test_the_state_of_every_optimizer_is_saved(tmp_path, opt):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole, _ = make(tmp_path / "whole", opt=opt)
    whole.run()
    trainer, _ = make(tmp_path / "stopped", opt=opt)
    stop_at(trainer, (1, 2))
    trainer.run()
    again = resume(tmp_path / "stopped", opt=opt)
    again.run()
    assert outcome(again, tmp_path / "stopped") == outcome(whole, tmp_path / "whole")


@pytest.mark.parametrize(
    ("decay", "stop"),
    [
        pytest.param(1, None, id="constant-finished"),
        pytest.param(0.9, (1, 2), id="exponential-within an epoch"),
        pytest.param(1, (1, 2), id="constant-within an epoch", marks=pytest.mark.slow),
        pytest.param(0.9, None, id="exponential-finished", marks=pytest.mark.slow),
    ],
)
def test_an_extended_run_ends_like_a_whole_one_of_that_length(tmp_path, decay, stop):
    for name in ("whole", "extended"):
        (tmp_path / name).mkdir()
    whole, _ = make(tmp_path / "whole", decay=decay)
    whole.run()
    folder = tmp_path / "extended"
    short, _ = make(folder, decay=decay, epochs=2)
    if stop is not None:
        stop_at(short, stop)
    assert short.run().epochs == (2 if stop is None else 1)
    longer = resume(folder, decay=decay)
    summary = longer.run()
    assert summary.epochs == EPOCHS
    assert outcome(longer, folder) == outcome(whole, tmp_path / "whole")
    assert [row[0] for row in outcome(longer, folder)[1]] == ["epoch", "1", "2", "3"]


class Killed(BaseException):
    """Stands in for a SIGKILL."""


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(20))
def test_kills_at_any_batch_or_within_a_save_change_nothing(tmp_path, seed, monkeypatch):
    """Three kills per run, at random batches or after a random number of written pieces."""
    draw = np.random.default_rng(seed)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, _ = make(tmp_path / "whole")
    whole.run()
    folder = tmp_path / "killed"
    trainer, _ = make(folder, save_every_steps=int(draw.integers(1, 4)))
    for _ in range(3):
        place = divmod(int(draw.integers(trainer.position.batches, EPOCHS * STEPS)), STEPS)
        pieces = int(draw.integers(0, 40)) if draw.random() < 0.5 else None
        written = []

        def die_at(epoch, step, place=place, pieces=pieces):
            if pieces is None and (epoch, step) >= place:
                raise Killed

        def die_in(file, piece, pieces=pieces, written=written):
            part = piece[: max(1, len(piece) // 3)]
            written.append(file.write(part))
            if pieces is not None and len(written) > pieces:
                raise Killed
            return len(part)

        monkeypatch.setattr(files, "_write", die_in)
        trainer.batches.at = die_at
        try:
            trainer.run()
            break  # it was through before its time
        except Killed:
            pass
        monkeypatch.undo()
        found = find_state("auto", folder)
        trainer = resume(folder) if found else make(folder)[0]
    monkeypatch.undo()
    trainer = resume(folder) if find_state("auto", folder) else make(folder)[0]
    trainer.run()
    assert outcome(trainer, folder)[:2] == outcome(whole, tmp_path / "whole")[:2]


def test_the_schedule_position_is_converted_if_an_epoch_has_another_number_of_updates(tmp_path):
    trainer, _ = make(tmp_path, accumulation=1)
    stop_at(trainer, (1, 0))
    trainer.run()
    trainer.position.step = 0  # as if it had been saved at the epoch's end
    again, updates = make(tmp_path, accumulation=2)
    state = find_state("auto", tmp_path)
    facts = {**state.facts, "position": {"epoch": 1, "step": 0, "batches": 5}}
    done = again.step.updates_done
    again.restore(facts, state.read(again.state.expected_arrays(1)), updates)
    before = 5  # six batches, one of which overflowed
    assert (done, again.step.updates_done) == (0, round(before * 3 / 5))


def failing(monkeypatch, times):
    """Simulate a disk that is full at the given saves of a state, counted from 1."""
    calls = []
    real = files.write_bytes

    def write(path, data):
        if path.suffix == ".safetensors":
            calls.append(path)
            if len(calls) in times:
                raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr("mindcv_ghost.storage.training_state.write_bytes", write)
    return calls


def test_a_full_disk_is_logged_and_training_goes_on(tmp_path, monkeypatch, caplog):
    for name in ("whole", "full"):
        (tmp_path / name).mkdir()
    whole, _ = make(tmp_path / "whole")
    whole.run()
    failing(monkeypatch, times=(2, 3))
    trainer, _ = make(tmp_path / "full", save_every_steps=2)

    with caplog.at_level("WARNING"):
        trainer.run()
    told = [r.getMessage() for r in caplog.records if "NOT SAVED" in r.getMessage()]
    assert len(told) == 2
    assert "No space left on device" in told[0] and "000001_epoch0_step2" in told[0]
    assert outcome(trainer, tmp_path / "full") == outcome(whole, tmp_path / "whole")


def of_epoch(folder, epoch: int) -> str:
    [path] = (folder / "resume").glob(f"*_epoch{epoch}_step0.safetensors")
    return str(path)


def test_a_run_that_goes_on_from_an_earlier_state_isnt_mixed_with_its_other_future(tmp_path):
    trainer, _ = make(tmp_path)
    have_accuracies(trainer, 50, 60, 70)
    trainer.run()
    again = resume(tmp_path, where=of_epoch(tmp_path, 2))
    assert find_state("auto", tmp_path).facts["position"]["epoch"] == 2
    names = {path.name for path in tmp_path.glob("best*")}
    assert (again.writer.checkpoints.best, names) == (None, {"best.ckpt.given_up"})
    have_accuracies(again, 55)
    summary = again.run()
    assert (summary.best_top1, summary.best_epoch) == (55.0, 3)
    assert (tmp_path / "best.ckpt").samefile(tmp_path / "last.ckpt")
    assert find_state("auto", tmp_path).facts["position"]["epoch"] == EPOCHS


def test_the_best_epoch_stays_if_it_is_before_what_is_given_up(tmp_path, caplog):
    trainer, _ = make(tmp_path)
    have_accuracies(trainer, 50, 70, 60)
    trainer.run()
    again = resume(tmp_path, where=of_epoch(tmp_path, 2))
    assert (tmp_path / "best.ckpt").is_file()
    assert again.writer.checkpoints.best == 70.0
    assert [r.levelname for r in caplog.records if "best.ckpt" in r.getMessage()] == []


def test_a_best_checkpoint_whose_epoch_was_lost_doesnt_pass_for_the_best_of_the_resumed_run(
    tmp_path, monkeypatch
):
    failing(monkeypatch, times=(2,))
    trainer, _ = make(tmp_path)
    have_accuracies(trainer, 50, 70)

    def die(epoch, step):
        if epoch == 2:
            raise Killed

    trainer.batches.at = die
    with pytest.raises(Killed):
        trainer.run()
    lost = sha256_of(tmp_path / "best.ckpt")
    again = resume(tmp_path)
    assert again.position.epoch == 1
    have_accuracies(again, 40, 30)  # as other ranks or masks of dropout may give them
    summary = again.run()
    assert (summary.best_top1, summary.best_epoch) == (40.0, 2)
    assert sha256_of(tmp_path / "best.ckpt") == sha256_of(tmp_path / f"linear-2_{STEPS}.ckpt")
    assert sha256_of(tmp_path / "best.ckpt.given_up") == lost


def test_the_third_failed_save_in_a_row_ends_the_run(tmp_path, monkeypatch):
    failing(monkeypatch, times=(2, 4, 5, 6))
    trainer, _ = make(tmp_path, save_every_steps=2)
    with pytest.raises(DiskError, match="3rd save in a row.*--resume auto"):
        trainer.run()
    assert find_state("auto", tmp_path).facts["position"]["batches"] == 5


def test_a_run_whose_last_state_cant_be_saved_fails(tmp_path, monkeypatch):
    failing(monkeypatch, times=(3,))
    trainer, _ = make(tmp_path)
    with pytest.raises(DiskError, match="not all of its last files could be written"):
        trainer.run()
    assert find_state("auto", tmp_path).facts["position"]["epoch"] == 2


def failing_weights(monkeypatch, epoch: int) -> None:
    """Simulate a disk that doesn't take ``last.ckpt`` of one epoch."""
    calls, real = [], checkpoint_manager.save_weights

    def save(parameters, path):
        calls.append(path)
        if len(calls) == epoch:
            raise OSError(28, "No space left on device")
        real(parameters, path)

    monkeypatch.setattr(checkpoint_manager, "save_weights", save)


def test_a_run_whose_last_weights_cant_be_saved_fails_and_a_resumed_one_writes_them(
    tmp_path, monkeypatch
):
    for name in ("whole", "failed"):
        (tmp_path / name).mkdir()
    whole, _ = make(tmp_path / "whole")
    whole.run()
    folder = tmp_path / "failed"
    failing_weights(monkeypatch, epoch=EPOCHS)
    trainer, _ = make(folder)
    with pytest.raises(DiskError, match="not all of its last files .*continue with --resume auto"):
        trainer.run()
    assert find_state("auto", folder).facts["position"]["epoch"] == EPOCHS - 1
    again = resume(folder)
    assert again.run().status == 0
    assert outcome(again, folder) == outcome(whole, tmp_path / "whole")
    assert sha256_of(folder / "last.ckpt") == sha256_of(tmp_path / "whole" / "last.ckpt")


def test_an_earlier_epoch_s_state_is_saved_without_its_weights(tmp_path, monkeypatch):
    failing_weights(monkeypatch, epoch=2)
    trainer, _ = make(tmp_path)
    assert trainer.run().status == 0
    names = [path.name for path in sorted((tmp_path / "resume").iterdir())]
    assert names == ["000002_epoch2_step0.safetensors", "000003_epoch3_step0.safetensors"]


def test_an_epoch_is_the_best_though_its_numbered_checkpoint_cant_be_written(tmp_path, monkeypatch):
    real = checkpoint_manager.link_or_copy

    def link(source, target):
        if target.name.startswith("linear-2_"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(checkpoint_manager, "link_or_copy", link)
    trainer, _ = make(tmp_path)
    have_accuracies(trainer, 50, 70, 60)
    summary = trainer.run()
    assert (summary.best_top1, summary.best_epoch) == (70.0, 2)
    assert trainer.writer.checkpoints.best == 70.0


def test_a_run_that_another_rank_s_signal_stops_fails_if_its_state_cant_be_saved(
    tmp_path, monkeypatch
):
    failing(monkeypatch, times=(1,))
    trainer, _ = make(tmp_path)

    def stop_from_elsewhere(epoch, step):
        if (epoch, step) == (0, 1):
            trainer.step.request(True, False)  # as if it came from another rank

    trainer.batches.at = stop_from_elsewhere
    with pytest.raises(DiskError, match="not all of its last files could be written"):
        trainer.run()


def test_rows_that_a_full_disk_refused_are_written_with_the_next(tmp_path, monkeypatch):
    from mindcv_ghost.report import metrics

    real, calls = metrics.write_bytes, []

    def write(path, data):
        calls.append(path)
        if len(calls) == 2:  # the first is the header
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(metrics, "write_bytes", write)
    trainer, _ = make(tmp_path)
    trainer.run()
    assert [row[0] for row in outcome(trainer, tmp_path)[1]] == ["epoch", "1", "2", "3"]


def test_non_finite_weights_are_not_saved(tmp_path):
    from mindcv_ghost.engine.divergence import TrainingDiverged

    trainer, _ = make(tmp_path)

    def poison(epoch, step):
        if epoch == 1:
            values = trainer.ema.averages[0]
            values.set_data(ms.Tensor(np.full(values.shape, np.nan, np.float32)))

    trainer.batches.at = poison
    with pytest.raises(TrainingDiverged, match=r"ema\.classifier\.weight holds values"):
        trainer.run()
    assert find_state("auto", tmp_path).facts["position"]["epoch"] == 1


def test_too_little_space_is_refused_before_the_first_step(tmp_path):
    check_space(tmp_path, 1000, 1000)
    with pytest.raises(DiskError, match=r"MB of space left; two checkpoints take 2,000,000,\d+ MB"):
        check_space(tmp_path, 10**15, 10**6)
    with pytest.raises(DiskError, match="can't be written"):
        check_space(tmp_path / "gone", 1, 1)
