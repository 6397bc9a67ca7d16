"""Bad losses and gradients end a training, at once or if a lower loss scale doesn't help."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mindcv_ghost.engine.divergence import DivergenceMonitor, all_finite

FLOAT32_MAX = float(np.finfo(np.float32).max)


def test_the_mean_is_over_the_finite_losses():
    watch = DivergenceMonitor(patience=3, skips=True)
    for loss in (1.0, math.inf, 3.0):
        assert watch.add_loss(loss) is None
    assert (watch.mean, watch.total, watch.count) == (2.0, 4.0, 2)
    assert math.isnan(DivergenceMonitor().mean)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, FLOAT32_MAX, -FLOAT32_MAX])
def test_a_bad_loss_whose_update_was_applied_ends_the_training_at_once(loss):
    assert DivergenceMonitor(patience=20).add_loss(loss) == f"the loss became {loss}"


def test_bad_gradients_that_were_applied_end_the_training_at_once():
    watch = DivergenceMonitor(patience=20)
    assert watch.add_loss(0.5) is None
    assert "gradients" in watch.add_update(finite=False, scale_fell=False)


def test_overflows_do_not_count_while_the_loss_scale_fell():
    watch = DivergenceMonitor(patience=2, skips=True)
    for _ in range(24):  # from 2**24 down to 1
        assert watch.add_loss(0.5) is None
        assert watch.add_update(finite=False, scale_fell=True) is None
    assert watch.overflows == 24
    assert watch.add_update(finite=False, scale_fell=False) is None
    assert "2 updates in a row" in watch.add_update(finite=False, scale_fell=False)


def test_a_bad_loss_counts_even_if_the_loss_scale_fell():
    watch = DivergenceMonitor(patience=2, skips=True)
    for last in (False, True):
        watch.add_loss(math.nan)
        assert bool(watch.add_update(finite=False, scale_fell=True)) == last


def test_a_good_update_resets_the_count():
    watch = DivergenceMonitor(patience=2, skips=True)
    for _ in range(3):
        watch.add_loss(math.nan)
        assert watch.add_update(finite=False, scale_fell=False) is None
        watch.add_loss(0.5)
        assert watch.add_update(finite=True, scale_fell=False) is None
    assert watch.overflows == 3


def test_one_bad_loss_among_accumulated_batches_is_one_bad_update():
    watch = DivergenceMonitor(patience=2, skips=True)
    for last in (False, True):
        watch.add_loss(math.inf)
        watch.add_loss(0.5)
        assert bool(watch.add_update(finite=False, scale_fell=False)) == last


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "largest", "lowest"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_largest_number_of_a_type_counts_as_an_infinity(bad, dtype):
    values = np.array([1.0, -2.0, 3.0], dtype)
    assert all_finite(values) and all_finite(values[:0])
    values[1] = {"largest": np.finfo(dtype).max, "lowest": np.finfo(dtype).min}.get(bad, bad)
    assert not all_finite(values)
