"""A training step that asks the native operator whether all gradients are finite."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.overflow import ValueCheck
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, Outcome, TrainStep
from mindcv_ghost.kernels import make_all_finite

from ..engine.networks import CrossEntropy, Linear, batch

pytestmark = pytest.mark.usefixtures("graph_mode")


def run(all_finite_cell, accumulation: int) -> list:
    """Outcomes and weights of good and bad updates."""
    network = Linear()
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), [0.1] * 20, "CPU")
    step = TrainStep(
        NetworkWithLoss(network, CrossEntropy()),
        optimizer,
        LossScale(1024.0, dynamic=True),
        accumulation_steps=accumulation,
        check=ValueCheck(all_finite_cell),
    )
    step.set_train()
    seen = []
    for value in (None, np.nan, None, np.inf, None):
        x, y = batch(4)
        if value is not None:
            array = x.asnumpy().copy()
            array[1, 2] = value
            x = Tensor(array)
        for _ in range(accumulation):
            _, outcome = step(x, y)
        if accumulation > 1:
            outcome = step.update(accumulation)
        weight = network.classifier.weight.asnumpy().copy()
        seen.append((Outcome.read(outcome).finite, step.scale, weight))
    return seen


@pytest.mark.parametrize(
    ("mode", "accumulation"), [(ms.GRAPH_MODE, 1), (ms.GRAPH_MODE, 2), (ms.PYNATIVE_MODE, 2)]
)
def test_updates_are_those_of_stock_operators(built, mode, accumulation):
    # In PyNative mode, equal runs may differ in the last bit (docs/reliability.md).
    ms.set_context(mode=mode)
    stock = run(None, accumulation)
    native = run(make_all_finite(str(built.path)), accumulation)
    assert [seen[:2] for seen in native] == [seen[:2] for seen in stock]
    assert [seen[0] for seen in native] == [True, False, True, False, True]
    for (*_, got), (*_, expected) in zip(native, stock):
        np.testing.assert_allclose(got, expected, rtol=0.0 if mode == ms.GRAPH_MODE else 1e-6)
