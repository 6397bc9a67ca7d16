"""The native cross entropy against MindCV's."""

from __future__ import annotations

import ctypes

import mindcv
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_ghost.kernels import make_loss
from mindcv_ghost.kernels.self_test.call import call

from .stock_and_native import assert_close

pytestmark = pytest.mark.usefixtures("graph_mode")


def logits_and_labels(rows: int = 37, classes: int = 50) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits = 5 * random.normal(size=(rows, classes)).astype(np.float32)
    return logits, random.integers(0, classes, rows).astype(np.int32)


def loss_and_gradient(loss: nn.Cell, logits: np.ndarray, labels: np.ndarray):
    def scaled(logits, labels):
        return 3 * loss(logits, labels)

    return ops.value_and_grad(scaled, 0)(Tensor(logits), Tensor(labels))


@pytest.mark.parametrize("ignored", [[], [3, 9]], ids=["all rows", "without ignored rows"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradient_are_mindcvs(built, reduction, smoothing, ignored):
    logits, labels = logits_and_labels()
    labels[ignored] = -100
    stock = mindcv.create_loss("CE", reduction=reduction, label_smoothing=smoothing)
    expected = loss_and_gradient(stock, logits, labels)
    got = loss_and_gradient(make_loss(str(built.path), stock), logits, labels)
    for one, two in zip(got, expected):
        assert_close(one.asnumpy(), two.asnumpy())


def test_auxiliary_logits_count_by_their_factor(built):
    logits, labels = logits_and_labels()
    stock = mindcv.create_loss("CE", aux_factor=0.4)
    both = (Tensor(logits), Tensor(logits[::-1].copy()))
    expected = stock(both, Tensor(labels)).asnumpy()
    assert_close(make_loss(str(built.path), stock)(both, Tensor(labels)).asnumpy(), expected)


def test_loss_is_rounded_once_and_the_same_on_any_number_of_threads(handle):
    logits, labels = logits_and_labels(64, 1000)
    shifted = logits.astype(float) - logits.max(1, keepdims=True)
    each = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(64), labels]
    found = set()
    for threads in (1, 2, 3):
        handle.ghost_set_threads(ctypes.c_int(threads))
        (loss,) = call(handle, "ghost_cross_entropy", [[0, 1], logits, labels], [(1,)])
        found.add(loss[0])
    assert found == {np.float32(each.mean())}


def test_a_label_that_is_no_class_gives_nan_and_other_rows_keep_their_gradients(handle):
    logits, labels = logits_and_labels(4, 5)
    labels[2] = 5
    (loss,) = call(handle, "ghost_cross_entropy", [[0, 1], logits, labels], [(1,)])
    inputs = [[0, 1], logits, labels, [1]]
    (gradient,) = call(handle, "ghost_cross_entropy_backward", inputs, [logits.shape])
    assert np.isnan(loss).all()
    assert np.isnan(gradient).all(axis=1).tolist() == [False, False, True, False]
    assert np.isfinite(np.delete(gradient, 2, axis=0)).all()


def test_losses_of_another_kind_and_no_library_leave_the_loss_stock(built):
    path, weight = str(built.path), Tensor(np.ones(5, np.float32))
    assert make_loss("", mindcv.create_loss("CE")) is None
    for other in (
        mindcv.create_loss("BCE"),
        mindcv.create_loss("CE", weight=weight),
        mindcv.create_loss("CE", reduction="none"),
        nn.CrossEntropyLoss(),
    ):
        assert make_loss(path, other) is None
