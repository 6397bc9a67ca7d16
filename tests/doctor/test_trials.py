"""Wrong numbers are found, whoever computed them; right ones aren't complained about."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from mindcv_ghost.doctor import communication
from mindcv_ghost.doctor.comparison import LOSS, compared
from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, SLOW
from mindcv_ghost.doctor.saving import difference
from mindcv_ghost.doctor.synthetic import Shape, batch_of
from mindcv_ghost.doctor.training import RepeatedBatch, Trial
from mindcv_ghost.engine.collectives import Collectives


class Ranks:
    """Two ranks in one process: each thread's sum waits for the other's."""

    def __init__(self, spoil=lambda values: values, delay: float = 0.0) -> None:
        self.barrier = threading.Barrier(2)
        self.given: list = [None, None]
        self.spoil, self.delay = spoil, delay

    def of(self, rank: int) -> Collectives:
        collectives = Collectives(rank, 2)
        collectives.sum = lambda values: self.sum(rank, np.asarray(values, np.float32))
        return collectives

    def sum(self, rank: int, values: np.ndarray) -> np.ndarray:
        self.given[rank] = values
        self.barrier.wait(60)
        total = self.given[0] + self.given[1]
        self.barrier.wait(60)
        return self.spoil(total)

    def both(self, check) -> list:
        found = [None, None]

        def run(rank: int) -> None:
            found[rank] = check(self.of(rank))

        threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return found


def test_a_training_that_handles_a_signal_to_stop_ends_the_doctor():
    stopped = SimpleNamespace(run=lambda: SimpleNamespace(stopped_by=signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        Trial.run(stopped)
    done = SimpleNamespace(stopped_by=0)
    assert Trial.run(SimpleNamespace(run=lambda: done)) is done


def test_right_sums_are_ok_and_timed():
    found, other = Ranks().both(lambda ranks: communication.all_reduce(ranks, "CPU"))
    assert found.state in (OK, SLOW)  # by the clock of a busy machine
    assert "sums exact" in found.text and found.numbers["mb_per_second"] > 0
    assert (other.state, other.text) == (OK, "")


def test_a_wrong_sum_is_broken_and_shown():
    def spoil(values):
        if values.size > 10_000:
            values = values.copy()
            values[10_000] += 1
        return values

    for found in Ranks(spoil).both(lambda ranks: communication.all_reduce(ranks, "CPU")):
        assert found.state == BROKEN and found.blocks
        assert "1 of 16,411 sums are wrong, the first at 10000: 1840 for 1839" in found.text


def test_every_bit_of_other_types_has_to_arrive():
    for found in Ranks().both(communication.exchange):
        assert found.state == OK
    rounded = Ranks(lambda values: values // 2 * 2)
    assert {found.state for found in rounded.both(communication.exchange)} == {BROKEN}


def test_one_rank_has_nobody_to_talk_to():
    alone = Collectives()
    assert communication.all_reduce(alone, "CPU").state == SKIPPED
    assert communication.exchange(alone).state == SKIPPED


def gradients(off: float = 0.0, loss: float = 2.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    values = {"conv.weight": draw.standard_normal((8, 4)), "bn.gamma": draw.standard_normal(8)}
    values = {name: value * (1 + off) for name, value in values.items()}
    return {LOSS: np.float64(loss), **values}


@pytest.mark.parametrize(
    ("off", "loss", "rough", "state"),
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
def test_gradients_and_loss_are_held_against_float32(off, loss, rough, state):
    found = compared(gradients(off, loss), gradients(), rough)
    assert found.state == state, found.text
    assert "at most" in found.text


def test_gradients_that_are_no_numbers_are_broken():
    wrong = gradients()
    wrong["bn.gamma"][3] = np.nan
    found = compared(wrong, gradients(), rough=True)
    assert found.state == BROKEN and "most in bn.gamma" in found.text


def test_other_parameters_are_broken():
    found = compared({**gradients(), "extra": np.zeros(1)}, gradients(), rough=True)
    assert found.state == BROKEN and "extra" in found.text


def rows(*losses: float) -> list[dict]:
    more = {"images_per_second": 10.0, "compile_seconds": 1.0}
    return [{"loss": loss, **more} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "state"),
    [((2.0, 1.0, 0.5), OK), ((2.0, 2.0, 1.95), BROKEN), ((2.0, 1.0, float("nan")), BROKEN)],
)
def test_the_loss_of_a_repeated_batch_has_to_fall(losses, state):
    step = SimpleNamespace(updates_done=200, skips_overflow=True, scale=512.0)
    step.accumulation_steps = 1
    trial = SimpleNamespace(
        world=SimpleNamespace(is_main=True),
        steps=200,
        updates=20,
    )
    found = Trial._judged(trial, "training", rows(*losses), SimpleNamespace(step=step))
    assert found.state == state
    assert "0 updates left out for overflow, loss scale 512" in found.text
    assert "10.0 images/s" in found.text


def test_differing_ranks_are_named():
    from mindspore import nn

    class Other(Collectives):
        def gather(self, values):
            return np.stack([values, values + 1])

    other = Other()
    other.size = 2
    with pytest.raises(RuntimeError, match=r"ranks \[1\] differ from those of rank 0"):
        other.assert_equal(nn.Dense(2, 2))


def test_images_are_the_same_in_every_process_and_others_on_every_rank():
    shape = Shape(4, 3, 8, 8, classes=5, one_hot=True)
    images, labels = batch_of(shape, 42, 1)
    assert np.array_equal(images, batch_of(shape, 42, 1)[0])
    assert not np.array_equal(images, batch_of(shape, 42, 0)[0])
    assert labels.shape == (4, 5) and np.array_equal(labels.sum(1), np.ones(4))


def test_a_repeated_batch_gives_as_many_as_a_run_takes():
    images, labels = batch_of(Shape(2, 3, 4, 4, classes=5), 0, 0)
    batches = RepeatedBatch(images, labels, steps=20, ranks=3)
    assert batches.images_per_epoch == 120
    assert len(list(batches.epoch(0, skip=15))) == 5
    run = batches.whole_run(0, 10, skip=3)
    assert run.dataset.get_dataset_size() == 197  # sink mode's queue holds 128
    first = next(run.dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert np.array_equal(first[0], images) and np.array_equal(first[1], labels)


def test_a_difference_is_one_number_over_all_arrays():
    one = {"a": np.full(3, 2.0), "n": np.array([5], np.int32)}
    assert difference(one, one) == 0.0
    assert difference(one, {**one, "a": np.full(3, 2.2)}) == pytest.approx(0.0570, abs=1e-4)
