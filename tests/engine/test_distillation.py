"""Distillation: the loss's formula, the teacher that never changes, and the step with both."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.distillation import Distillation, SoftLoss, Teacher
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.parameters import assign_parameter
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, TrainStep, mixed_precision
from mindcv_ghost.engine.step_state import StepState

from .networks import CLASSES, CrossEntropy, Linear, batch, cross_entropy_gradient

LR = 0.1
ALPHA, TEMPERATURE = 0.3, 4.0


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)


def logits(seed: int, rows: int = 5, classes: int = 7, scale: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(rows, classes))).astype(np.float32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def soft_loss(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """The formula in float64."""
    log_s, log_t = (log_softmax(x.astype(np.float64) / temperature) for x in (student, teacher))
    return float((np.exp(log_t) * (log_t - log_s)).sum(1).mean() * temperature**2)


def soft_gradient(weight: np.ndarray, other: np.ndarray, x: np.ndarray, t: float) -> np.ndarray:
    """Gradient of the soft loss of ``x @ weight.T`` against ``x @ other.T``, in float64."""
    x, weight, other = (array.astype(np.float64) for array in (x, weight, other))
    p, q = (np.exp(log_softmax(x @ w.T / t)) for w in (weight, other))
    return t * (p - q).T @ x / len(x)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_soft_loss_equals_its_formula_in_float64(temperature, exact):
    loss = SoftLoss(temperature, exact=exact)(Tensor(logits(0)), Tensor(logits(1)))
    assert loss.dtype == ms.float32 and loss.shape == ()
    expected = soft_loss(logits(0), logits(1), temperature)
    assert expected > 0.1
    # MindSpore's float32 exp and log on the CPU are wrong by up to 4e-6.
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-7 if exact else 1e-5, abs=0)


def test_a_sum_is_the_mean_times_the_number_of_images():
    mean, total = (
        float(SoftLoss(2.0, how, exact=True)(Tensor(logits(0)), Tensor(logits(1))).asnumpy())
        for how in ("mean", "sum")
    )
    assert total == pytest.approx(5 * mean, rel=1e-6)


def test_logits_of_any_size_give_a_finite_loss_and_equal_ones_none():
    large = Tensor(logits(0, scale=1000))
    assert float(SoftLoss(1.0)(large, large).asnumpy()) == 0
    assert np.isfinite(float(SoftLoss(1.0)(large, Tensor(logits(1, scale=1000))).asnumpy()))


def test_no_gradient_reaches_the_teacher_s_logits(mode):
    of_both = ops.grad(SoftLoss(2.0), grad_position=(0, 1))
    student, teacher = of_both(Tensor(logits(0)), Tensor(logits(1)))
    assert np.abs(student.asnumpy()).max() > 0.01
    assert not teacher.asnumpy().any()


class Small(nn.Cell):
    """BN and dropout, which do something else in training; a name that ``Linear`` has as well."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(p=0.5)
        weight = np.linspace(1.0, -1.0, 4 * CLASSES, dtype=np.float32).reshape(CLASSES, 4)
        self.classifier = nn.Dense(4, CLASSES, Tensor(weight), has_bias=False)

    def construct(self, x):
        return self.classifier(self.dropout(self.norm(x)))


def make(teacher=None, alpha=ALPHA, temperature=TEMPERATURE, network=None, amp="O0", lr=LR, **step):
    network = network or Linear()
    teacher = Teacher(teacher or Small())
    optimizer = create_optimizer(
        network, OptimizerSettings("momentum", momentum=0.0), [lr] * 500, "CPU"
    )
    ema = step.pop("ema_decay", None)
    ema = None if ema is None else EmaWeights(network, ema)
    mixed = mixed_precision(network, amp)
    distillation = Distillation(teacher, SoftLoss(temperature, exact=True), alpha)
    with_loss = NetworkWithLoss(mixed, CrossEntropy(), distillation=distillation)
    cell = TrainStep(with_loss, optimizer, ema=ema, **step)
    cell.set_train()
    return network, teacher, cell


def values(cell: nn.Cell) -> dict[str, bytes]:
    return {p.name: p.asnumpy().tobytes() for p in cell.get_parameters()}


def test_a_step_follows_the_gradient_of_both_losses(mode):
    network, teacher, step = make(Linear())
    own = teacher.network.classifier.weight
    assign_parameter(own, np.flip(own.asnumpy(), 0).copy())
    before, (x, y) = network.classifier.weight.asnumpy().copy(), batch(6)
    reported = step(x, y)[0].asnumpy()
    x, y, other = x.asnumpy(), y.asnumpy(), own.asnumpy()
    hard = cross_entropy_gradient(before, x, y)
    soft = soft_gradient(before, other, x, TEMPERATURE)
    assert np.abs(soft).max() > 0.1
    moved = before - network.classifier.weight.asnumpy()
    np.testing.assert_allclose(moved / LR, (1 - ALPHA) * hard + ALPHA * soft, atol=2e-6)
    total, hard_loss, soft_part = reported
    assert soft_part == pytest.approx(soft_loss(x @ before.T, x @ other.T, TEMPERATURE), rel=1e-5)
    assert total == pytest.approx((1 - ALPHA) * hard_loss + ALPHA * soft_part, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulation_steps": 2},
        {"ema_decay": 0.9, "clip_norm": 1.0},
        {"amp": "O2", "loss_scale": LossScale(64.0, dynamic=True)},
        pytest.param({"amp": "O3", "loss_scale": LossScale(64.0)}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_teacher_is_evaluated_and_never_changes(mode, options):
    network, teacher, step = make(**options)
    before, student = values(teacher), values(network)
    assert {name.split(".")[0] for name in before} == {"teacher"}
    x, y = batch(6)
    alone = teacher(x).asnumpy()
    for _ in range(2):
        step(x, y)
        if step.accumulates:
            step(x, y)
            step.update(2)
    assert values(teacher) == before
    assert values(network) != student
    # Neither in training nor of another mode than before: no dropout, no batch statistics.
    np.testing.assert_array_equal(teacher(x).asnumpy(), alone)
    step.set_train(False)
    step.set_train(True)
    assert not any(cell.training for _, cell in teacher.cells_and_names())


def test_the_teacher_s_answers_in_a_step_are_those_of_its_evaluation(mode):
    network, teacher, step = make(alpha=1.0)
    x, y = batch(6)
    student = network(x).asnumpy()
    expected = soft_loss(student, teacher(x).asnumpy(), TEMPERATURE)
    assert float(step(x, y)[0].asnumpy()[2]) == pytest.approx(expected, rel=1e-5)


def test_accumulated_micro_batches_equal_one_large_batch():
    x, y = batch(6)
    whole, _, step = make()
    step(x, y)
    parts, _, step = make(accumulation_steps=3)
    for i in range(0, 6, 2):
        step(x[i : i + 2], y[i : i + 2])
    step.update(3)
    weights = [n.classifier.weight.asnumpy() for n in (whole, parts)]
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-6)


def test_a_student_that_follows_the_teacher_alone_reaches_its_loss(graph_mode):  # 400 steps
    teacher = Small().set_train(False)
    _, _, step = make(teacher, alpha=1.0, temperature=2.0, lr=1.0)
    x, y = batch(12)
    expected = np.mean(
        -log_softmax(teacher(x).asnumpy().astype(np.float64))[range(12), y.asnumpy()]
    )
    first = step(x, y)[0].asnumpy()
    for _ in range(400):
        last = step(x, y)[0].asnumpy()
    assert first[2] > 0.1 and abs(first[1] - expected) > 0.1
    assert last[2] < 1e-6
    assert last[1] == pytest.approx(expected, abs=1e-3)


def test_a_student_with_the_teacher_s_weights_has_no_soft_loss():
    _, _, step = make(Linear(), alpha=1.0)
    assert abs(step(*batch(8))[0].asnumpy()[2]) < 1e-12


class WithAuxiliary(Linear):
    """Returns auxiliary logits in training, as Inception does."""

    def construct(self, x):
        main = self.classifier(x)
        return (main, 2 * main) if self.training else main


class OfMain(nn.Cell):
    def construct(self, logits, labels):
        return CrossEntropy()(logits[0], labels)


def test_auxiliary_logits_have_no_soft_loss():
    network = WithAuxiliary()
    _, _, plain = make()
    distillation = plain.network_with_loss.distillation
    with_loss = NetworkWithLoss(network, OfMain(), distillation=distillation).set_train()
    x, y = batch(6)
    reported = with_loss(x, y, distillation.teacher(x))[1].asnumpy()
    np.testing.assert_array_equal(reported, plain(x, y)[0].asnumpy())


def test_a_saved_state_has_nothing_of_the_teacher():
    network, teacher, step = make(ema_decay=0.9)
    state = StepState(step, Collectives())
    assert not any("teacher" in name for name in state.parameters)
    assert "classifier.weight" in state.parameters
    without = TrainStep(NetworkWithLoss(Linear(), CrossEntropy()), step.updater.optimizer)
    own = {name for name in state.parameters if not name.startswith("ema")}
    assert own == set(StepState(without, Collectives()).parameters)
