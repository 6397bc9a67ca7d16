"""One training step, compared with the same step in NumPy."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.overflow import ValueCheck
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, Outcome, TrainStep, mixed_precision

from .networks import CrossEntropy, Linear, MeanProduct, batch, cross_entropy_gradient

LR = 0.1


@pytest.fixture(autouse=True, params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)


def make(loss=None, lr=LR, nesterov=False, opt="momentum", momentum=0.0, **step):
    network = Linear()
    schedule = lr if isinstance(lr, list) else [lr] * 20
    settings = OptimizerSettings(opt, momentum=momentum, nesterov=nesterov)
    optimizer = create_optimizer(network, settings, schedule, "CPU")
    ema = step.pop("ema_decay", None)
    ema = EmaWeights(network, ema) if ema is not None else None
    cell = TrainStep(NetworkWithLoss(network, loss or CrossEntropy()), optimizer, ema=ema, **step)
    cell.set_train()
    return network, cell


def weight_of(network) -> np.ndarray:
    return network.classifier.weight.asnumpy().copy()


def test_a_step_without_options_is_gradient_descent():
    network, step = make()
    before, (x, y) = weight_of(network), batch(6)
    step(x, y)
    gradient = cross_entropy_gradient(before, x.asnumpy(), y.asnumpy())
    np.testing.assert_allclose(weight_of(network), before - LR * gradient, atol=1e-6)


def test_the_loss_scale_does_not_change_the_step():
    (plain, first), (scaled, second) = make(), make(loss_scale=LossScale(1024.0))
    x, y = batch(6)
    losses = [float(step(x, y)[0].asnumpy()) for step in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    np.testing.assert_allclose(weight_of(plain), weight_of(scaled), atol=1e-6)


def test_accumulated_micro_batches_equal_one_large_batch():
    network, step = make(accumulation_steps=3)
    before, (x, y) = weight_of(network), batch(6)
    for part in range(3):
        step(x[2 * part : 2 * part + 2], y[2 * part : 2 * part + 2])
        if part < 2:
            np.testing.assert_array_equal(weight_of(network), before)
    step.update(3)
    gradient = cross_entropy_gradient(before, x.asnumpy(), y.asnumpy())
    np.testing.assert_allclose(weight_of(network), before - LR * gradient, atol=1e-6)


def test_a_short_last_group_is_divided_by_its_length_and_clears_the_sums():
    network, step = make(accumulation_steps=3)
    before, (x, y) = weight_of(network), batch(2)
    for _ in range(2):
        start = weight_of(network)
        step(x, y)
        step.update(1)
        gradient = cross_entropy_gradient(start, x.asnumpy(), y.asnumpy())
        np.testing.assert_allclose(weight_of(network), start - LR * gradient, atol=1e-6)
    assert not np.allclose(weight_of(network), before)


def test_under_accumulation_the_learning_rate_advances_once_per_update():
    network, step = make(lr=[1.0, 0.5, 0.25], loss=MeanProduct(), accumulation_steps=2)
    x, y = Tensor(np.ones((2, 4), np.float32)), Tensor(np.zeros(2, np.int32))
    moved = []
    for _ in range(3):
        before = weight_of(network)
        step(x, y)
        step(x, y)
        step.update(2)
        moved.append(float((before - weight_of(network))[0, 0]))
    np.testing.assert_allclose(moved, [1.0, 0.5, 0.25], atol=1e-6)
    assert step.updates_done == 3


def test_clipping_bounds_the_norm_of_the_unscaled_gradient():
    network, step = make(loss=MeanProduct(), clip_norm=0.5, loss_scale=LossScale(256.0))
    before = weight_of(network)
    step(Tensor(np.full((2, 4), 3.0, np.float32)), Tensor(np.zeros(2, np.int32)))
    moved = (before - weight_of(network)) / LR
    assert np.linalg.norm(moved) == pytest.approx(0.5, abs=1e-4)


def test_a_gradient_below_the_bound_is_not_clipped():
    network, step = make(loss=MeanProduct(), clip_norm=100.0)
    before = weight_of(network)
    step(Tensor(np.full((2, 4), 3.0, np.float32)), Tensor(np.zeros(2, np.int32)))
    moved = (before - weight_of(network)) / LR
    assert np.linalg.norm(moved) == pytest.approx(6.0, abs=1e-4)


def test_an_overflow_is_skipped_and_halves_the_dynamic_scale():
    network, step = make(loss_scale=LossScale(1024.0, dynamic=True), ema_decay=0.9)
    before = weight_of(network)
    bad = np.full((2, 4), np.inf, np.float32)
    _, outcome = step(Tensor(bad), Tensor(np.zeros(2, np.int32)))
    assert Outcome.read(outcome) == (False, False, False, True)
    np.testing.assert_array_equal(weight_of(network), before)
    assert (step.scale, step.updates_done) == (512.0, 0)
    assert float(step.updater.ema.updates.asnumpy()) == 0
    assert Outcome.read(step(*batch(4))[1]).finite
    assert (step.scale, step.updates_done) == (512.0, 1)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_outcome_tells_whether_its_own_update_lowered_the_scale(accumulation):
    _, step = make(loss_scale=LossScale(4.0, dynamic=True), accumulation_steps=accumulation)
    bad = Tensor(np.full((2, 4), np.inf, np.float32)), Tensor(np.zeros(2, np.int32))
    counts = []
    for inputs in (bad, bad, bad, batch(2)):
        for _ in range(accumulation):
            _, outcome = step(*inputs)
        counts.append(step.update(accumulation) if accumulation > 1 else outcome)
    # They are read after all updates, as those of a device that computes ahead.
    outcomes = [Outcome.read(each) for each in counts]
    assert [outcome.finite for outcome in outcomes] == [False, False, False, True]
    assert [outcome.scale_fell for outcome in outcomes] == [True, True, False, False]
    assert step.scale == 1.0


class Never(nn.Cell):
    """Says that no gradient is finite."""

    def construct(self, gradients):
        return gradients[0].sum() * 0 > 1


def test_a_custom_cell_can_decide_whether_gradients_are_finite():
    network, step = make(loss_scale=LossScale(2.0, skip_overflow=True), check=ValueCheck(Never()))
    before = weight_of(network)
    assert not Outcome.read(step(*batch(4))[1]).finite
    np.testing.assert_array_equal(weight_of(network), before)


def test_the_dynamic_scale_doubles_after_a_window_without_overflow():
    _, step = make(loss_scale=LossScale(8.0, dynamic=True, window=2))
    scales = []
    for i in range(5):
        step(*batch(4, seed=i))
        scales.append(step.scale)
    assert scales == [8.0, 16.0, 16.0, 32.0, 32.0]


def test_with_a_fixed_scale_an_overflow_is_applied_or_skipped_as_configured():
    bad = Tensor(np.full((2, 4), np.inf, np.float32)), Tensor(np.zeros(2, np.int32))
    (kept, skipping), (lost, applying) = (
        make(loss_scale=LossScale(2.0, skip_overflow=True)),
        make(loss_scale=LossScale(2.0)),
    )
    assert not Outcome.read(skipping(*bad)[1]).finite
    assert not Outcome.read(applying(*bad)[1]).finite
    assert np.isfinite(weight_of(kept)).all()
    assert np.isnan(weight_of(lost)).any()
    assert (skipping.scale, applying.scale) == (2.0, 2.0)


def test_the_averages_follow_mindcvs_formula():
    network, step = make(ema_decay=0.9)
    average = weight_of(network)
    for update in range(1, 4):
        step(*batch(4, seed=update))
        decay = 0.9 * (1 - np.exp(-update / 2000))
        average = decay * average + (1 - decay) * weight_of(network)
    ema = step.updater.ema
    assert ema.averages[0].name == "ema.classifier.weight"
    np.testing.assert_allclose(ema.averages[0].asnumpy(), average, atol=1e-6)
    own = weight_of(network)
    with ema.applied():
        np.testing.assert_allclose(weight_of(network), average, atol=1e-6)
    np.testing.assert_array_equal(weight_of(network), own)


def test_nesterov_looks_ahead_on_the_cpu():
    # v <- 0.9 v + g; w <- w - lr (g + 0.9 v) with g = 1: 1.9 and 2.71 after two steps.
    network, step = make(loss=MeanProduct(), lr=1.0, nesterov=True, momentum=0.9)
    before = weight_of(network)
    x, y = Tensor(np.ones((2, 4), np.float32)), Tensor(np.zeros(2, np.int32))
    moved = []
    for _ in range(2):
        step(x, y)
        moved.append(float((before - weight_of(network))[0, 0]))
    np.testing.assert_allclose(moved, [1.9, 1.9 + 2.71], atol=1e-5)


@pytest.mark.parametrize(
    "level",
    ["O0", "O2", "auto", *(pytest.param(level, marks=pytest.mark.slow) for level in ("O1", "O3"))],
)
def test_every_amp_level_lowers_the_loss_and_keeps_float32_weights(level):
    network = nn.SequentialCell(
        nn.Conv2d(3, 4, 3, has_bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(64, 3),
    )
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), [0.05] * 9, "CPU")
    mixed = mixed_precision(network, level)
    step = TrainStep(NetworkWithLoss(mixed, CrossEntropy()), optimizer, LossScale(128.0, True))
    step.set_train()
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(6, 3, 4, 4)).astype(np.float32))
    y = Tensor(np.arange(6, dtype=np.int32) % 3)
    losses = [float(step(x, y)[0].asnumpy()) for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]
    assert {str(p.dtype) for p in network.get_parameters()} == {"Float32"}


def test_a_request_is_answered_by_the_next_update():
    _, step = make(accumulation_steps=2)
    x, y = batch(2)
    assert Outcome.read(step.update(1)) == (True, False, False, False)
    step.request(stop=True, save=False)
    step(x, y)
    assert Outcome.read(step.update(1)) == (True, True, False, False)
    step.request(stop=False, save=True)
    assert Outcome.read(step.update(1)) == (True, False, True, False)


def test_a_call_does_not_walk_through_the_cells_below_unless_it_compiles():
    if ms.get_context("mode") != ms.GRAPH_MODE:
        pytest.skip("nothing is compiled")
    network, step = make()
    step(*batch(6))
    network.compile_phase = "another graph's"
    step(*batch(6))
    assert network.compile_phase == "another graph's"
    step(*batch(5))
    assert network.compile_phase == step.compile_phase
