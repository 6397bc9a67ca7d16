"""Wrong numbers are reported, and right ones are accepted."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, SLOW
from mindcv_ghost.doctor.trials.batches import BatchShape, RepeatedBatch, make_batch
from mindcv_ghost.doctor.trials.communication import (
    check_all_reduce,
    check_gather_and_broadcast,
)
from mindcv_ghost.doctor.trials.gradients import compare
from mindcv_ghost.doctor.trials.reference import LOSS
from mindcv_ghost.doctor.trials.saving import relative_difference
from mindcv_ghost.doctor.trials.training import judge_losses, run_trainer
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.launch.world import World


class TwoRanks:
    """Two ranks as threads of one process; each sum waits for the other rank's."""

    def __init__(self, corrupt=lambda values: values) -> None:
        self.barrier = threading.Barrier(2)
        self.given: list = [None, None]
        self.corrupt = corrupt

    def of(self, rank: int) -> Collectives:
        collectives = Collectives(rank, 2)
        collectives.sum = lambda values: self.sum(rank, np.asarray(values, np.float32))
        return collectives

    def sum(self, rank: int, values: np.ndarray) -> np.ndarray:
        self.given[rank] = values
        self.barrier.wait(60)
        total = self.given[0] + self.given[1]
        self.barrier.wait(60)
        return self.corrupt(total)

    def both(self, check) -> list:
        result = [None, None]

        def run(rank: int) -> None:
            result[rank] = check(self.of(rank))

        threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return result


def test_a_training_that_a_signal_stopped_ends_the_doctor():
    stopped = SimpleNamespace(run=lambda: SimpleNamespace(stopped_by=signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        run_trainer(stopped)
    done = SimpleNamespace(stopped_by=0)
    assert run_trainer(SimpleNamespace(run=lambda: done)) is done


def test_exact_sums_are_ok_and_timed():
    result, other = TwoRanks().both(lambda ranks: check_all_reduce(ranks, "CPU"))
    assert result.state in (OK, SLOW)  # depends on how busy the machine is
    assert "sums exact" in result.text and result.numbers["mb_per_second"] > 0
    assert (other.state, other.text) == (OK, "")


def test_a_wrong_sum_is_broken_and_shown():
    def corrupt(values):
        if values.size > 10_000:
            values = values.copy()
            values[10_000] += 1
        return values

    for result in TwoRanks(corrupt).both(lambda ranks: check_all_reduce(ranks, "CPU")):
        assert result.state == BROKEN and result.blocks
        assert (
            "1 of 16,411 sums are wrong, the first at index 10000: 1840 instead of 1839"
            in result.text
        )


def test_gather_and_broadcast_must_keep_every_bit():
    for result in TwoRanks().both(check_gather_and_broadcast):
        assert result.state == OK
    rounded = TwoRanks(lambda values: values // 2 * 2)
    assert {result.state for result in rounded.both(check_gather_and_broadcast)} == {BROKEN}


def test_communication_is_skipped_with_one_rank():
    alone = Collectives()
    assert check_all_reduce(alone, "CPU").state == SKIPPED
    assert check_gather_and_broadcast(alone).state == SKIPPED


def gradients(off: float = 0.0, loss: float = 2.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    values = {"conv.weight": draw.standard_normal((8, 4)), "bn.gamma": draw.standard_normal(8)}
    values = {name: value * (1 + off) for name, value in values.items()}
    return {LOSS: np.float64(loss), **values}


@pytest.mark.parametrize(
    ("off", "loss", "is_rough", "state"),
    [
        (1e-5, 2.000001, False, OK),
        (1e-2, 2.0, False, BROKEN),
        (1e-2, 2.001, True, OK),
        (0.0, 2.1, True, BROKEN),
        (1.0, 2.0, True, BROKEN),  # a sum over two ranks instead of a mean
        (-2.0, 2.0, True, BROKEN),
        (0.0, float("nan"), True, BROKEN),
    ],
)
def test_gradients_and_loss_must_be_within_tolerance(off, loss, is_rough, state):
    result = compare(gradients(off, loss), gradients(), is_rough)
    assert result.state == state, result.text
    assert "at most" in result.text


def test_gradients_with_nan_are_broken():
    wrong = gradients()
    wrong["bn.gamma"][3] = np.nan
    result = compare(wrong, gradients(), is_rough=True)
    assert result.state == BROKEN and "most in bn.gamma" in result.text


def test_different_trained_parameters_are_broken():
    result = compare({**gradients(), "extra": np.zeros(1)}, gradients(), is_rough=True)
    assert result.state == BROKEN and "extra" in result.text


def rows(*losses: float) -> list[dict]:
    more = {"images_per_second": 10.0, "compile_seconds": 1.0}
    return [{"loss": loss, **more} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "state"),
    [((2.0, 1.0, 0.5), OK), ((2.0, 2.0, 1.95), BROKEN), ((2.0, 1.0, float("nan")), BROKEN)],
)
def test_the_loss_of_a_repeated_batch_must_fall(losses, state):
    step = SimpleNamespace(updates_done=200, skips_overflow=True, scale=512.0)
    step.accumulation_steps = 1
    session = SimpleNamespace(world=World(), steps=200)
    learner = SimpleNamespace(step=step)
    prepared = SimpleNamespace(session=session, learner=learner, updates_per_epoch=20)
    result = judge_losses("training", prepared, rows(*losses))
    assert result.state == state
    assert "0 updates skipped for overflow, loss scale 512" in result.text
    assert "10.0 images/s" in result.text


def test_differing_ranks_are_named():
    from mindspore import nn

    class Other(Collectives):
        def gather(self, values):
            return np.stack([values, values + 1])

    other = Other()
    other.size = 2
    with pytest.raises(RuntimeError, match=r"ranks \[1\] differ from those of rank 0"):
        other.assert_equal(nn.Dense(2, 2))


def test_batches_are_reproducible_and_differ_between_ranks():
    shape = BatchShape(4, 3, 8, 8, classes=5, one_hot=True)
    images, labels = make_batch(shape, 42, 1)
    assert np.array_equal(images, make_batch(shape, 42, 1)[0])
    assert not np.array_equal(images, make_batch(shape, 42, 0)[0])
    assert labels.shape == (4, 5) and np.array_equal(labels.sum(1), np.ones(4))


def test_a_repeated_batch_yields_as_many_batches_as_a_run_needs():
    images, labels = make_batch(BatchShape(2, 3, 4, 4, classes=5), 0, 0)
    batches = RepeatedBatch(images, labels, steps=20, ranks=3)
    assert batches.images_per_epoch == 120
    assert len(list(batches.epoch(0, skip=15))) == 5
    run = batches.whole_run(0, 10, skip=3)
    assert run.dataset.get_dataset_size() == 197  # sink mode's queue holds 128
    first = next(run.dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert np.array_equal(first[0], images) and np.array_equal(first[1], labels)


def test_the_relative_difference_covers_all_arrays():
    one = {"a": np.full(3, 2.0), "n": np.array([5], np.int32)}
    assert relative_difference(one, one) == 0.0
    assert relative_difference(one, {**one, "a": np.full(3, 2.2)}) == pytest.approx(
        0.0570, abs=1e-4
    )
