"""Overflows are detected by value or by register."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_ghost.engine import overflow
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.overflow import StatusCheck, ValueCheck
from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, Outcome, TrainStep

from .networks import CrossEntropy, Linear, batch

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_detected_on_any_device(bad, saturates):
    gradients = [np.ones((2, 3), np.float32), np.ones(4, np.float32)]
    if bad is not None:
        gradients[1][3] = bad
    check = ValueCheck(saturates=saturates)
    assert bool(check(tuple(map(Tensor, gradients))).asnumpy()) == (bad is None)


class Register:
    """Replaces the device's register, for which MindSpore has no kernel on the CPU."""

    def __init__(self, monkeypatch) -> None:
        self.cell = ms.Parameter(Tensor(np.zeros(8, np.int32)), name="status", requires_grad=False)
        register = self.cell

        class Clear(nn.Cell):
            def __init__(self) -> None:
                super().__init__(auto_prefix=False)
                self.register = register

            def construct(self, x):
                return ops.depend(x, ops.assign(self.register, ops.zeros_like(x)))

        class Read(nn.Cell):
            def __init__(self) -> None:
                super().__init__(auto_prefix=False)
                self.register = register

            def construct(self, x):
                return ops.depend(self.register, x) + 0

        monkeypatch.setattr(overflow, "NPUClearFloatStatusV2", Clear)
        monkeypatch.setattr(overflow, "NPUGetFloatStatusV2", Read)

    def set(self) -> None:
        ops.assign(self.cell, Tensor(np.ones(8, np.int32)))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_flag_raised_before_the_step_is_ignored(monkeypatch, accumulation):
    register = Register(monkeypatch)
    network = Linear()
    step = TrainStep(
        NetworkWithLoss(network, CrossEntropy()),
        create_optimizer(network, OptimizerSettings("momentum"), [0.1] * 20, "CPU"),
        LossScale(1024.0, dynamic=True),
        accumulation_steps=accumulation,
        check=StatusCheck(),
    )
    step.set_train()
    for _ in range(2):
        for _ in range(accumulation):
            register.set()  # as a validation might
            _, outcome = step(*batch(4))
        if accumulation > 1:
            register.set()
            outcome = step.update(accumulation)
        assert Outcome.read(outcome).finite
    assert (step.scale, step.updates_done) == (1024.0, 2)


def test_a_flag_raised_within_the_step_skips_the_update(monkeypatch):
    register = Register(monkeypatch)

    class Raising(nn.Cell):
        """A loss whose computation overflows."""

        def __init__(self) -> None:
            super().__init__()
            self.register = register.cell

        def construct(self, logits, labels):
            flag = ops.assign(self.register, ops.ones_like(self.register))
            return ops.cross_entropy(ops.depend(logits, flag), labels)

    network = Linear()
    step = TrainStep(
        NetworkWithLoss(network, Raising()),
        create_optimizer(network, OptimizerSettings("momentum"), [0.1] * 20, "CPU"),
        LossScale(1024.0, dynamic=True),
        check=StatusCheck(),
    )
    step.set_train()
    assert not Outcome.read(step(*batch(4))[1]).finite
    assert (step.scale, step.updates_done) == (512.0, 0)
