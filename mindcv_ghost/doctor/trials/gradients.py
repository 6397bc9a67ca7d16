"""Check a step's loss and gradients against float32 on the CPU."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.doctor.report import BROKEN, OK, CheckResult
from mindcv_ghost.doctor.trials import reference
from mindcv_ghost.doctor.trials.batches import BatchShape, make_batch
from mindcv_ghost.doctor.trials.reference import LOSS
from mindcv_ghost.doctor.trials.session import TrialSession
from mindcv_ghost.engine.parameters import assign_parameter
from mindcv_ghost.engine.step import TrainStep
from mindcv_ghost.run.learner import Learner

__all__ = ["check_gradients", "compare"]

_REFERENCE_SECONDS = 3000.0
_IMAGES = 8  # of each rank, because a host's CPU computes the reference
# For this check each batch norm's beta is 2 instead of 0, so that ReLUs pass 98 % of the values.
# With random weights and half of the values cut off, rounding is amplified from layer to layer:
# ghost_resnet50's gradients in float16 then have nothing in common with those in float32 (off by
# 1.3 of their norm on the CPU; two orders of adding in float32 differ by 0.05), and no comparison
# could tell right from wrong.
_BETA = 2.0
# With this loss scale no gradient of a network's first step overflows float16.
_MAX_LOSS_SCALE = 128.0

# Tolerances, relative to the loss and to the gradients' norm: float32 on the CPU, and float16 or a
# device. Measured on the CPU for ghost_resnet50, resnet50 and ghostnetv2_100: at most 2.5e-7 and
# 1.3e-5 by native operators in float32; 2.5e-4 and 8e-3 by float16 (O2), whose products are good to
# 5e-4, as TF32's are, which devices may use for float32. A wrong gradient is off by its own norm.
_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = (1e-5, 1e-2), (1e-3, 5e-2)


class _LossAndGradients(nn.Cell):
    """Computes a step's loss and averaged gradients without updating anything."""

    def __init__(self, step: TrainStep) -> None:
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, image, label):
        (_, loss), gradients = self.step.value_and_grad(self.step.check.start(image), label)
        return loss, self.step.updater.reducer(gradients)


def check_gradients(session: TrialSession, learner: Learner) -> CheckResult:
    """Compare loss and gradients of the first step with those of the CPU in float32.

    Every rank has to call this; rank 0 has the reference computed. The step is left as it was.

    Args:
        session: what all trials share.
        learner: an untrained network and its step.
    """
    step, config, world = learner.step, session.config, session.world
    shape = _reference_shape(session)
    before = {p.name: p.asnumpy().copy() for p in step.get_parameters()}
    weights = _shift_batch_norms(step)
    scale = min(step.scale, _MAX_LOSS_SCALE)
    assign_parameter(step.updater.scale, np.array(scale, np.float32))
    step.set_train()
    inputs = [ms.Tensor(x) for x in make_batch(shape, config.system.seed, world.rank)]
    cell = _LossAndGradients(step)
    if config.system.mode == 0:
        learner.compile(cell, *inputs)
    loss, gradients = cell(*inputs)
    mean = session.collectives.sum(loss.asnumpy().reshape(1)) / world.size
    measured = {LOSS: mean[0]}
    for parameter, gradient in zip(step.weights, gradients):
        measured[parameter.name] = gradient.asnumpy().astype(np.float64) / scale
    for parameter in step.get_parameters():
        assign_parameter(parameter, before[parameter.name])
    if not world.is_main:
        return CheckResult("loss and gradients", OK)
    with tempfile.TemporaryDirectory() as folder:
        expected = reference.compute(
            Path(folder), config, weights, shape, world.size, _REFERENCE_SECONDS
        )
    is_rough = session.device != "CPU" or config.amp.amp_level != "O0"
    return compare(measured, expected, is_rough, scale)


def _reference_shape(session: TrialSession) -> BatchShape:
    """Return the shape of the batch on which loss and gradients are compared."""
    shape = session.shape
    images = 6 if session.config.loss.loss == "jsd" else min(shape.images, _IMAGES)
    return dataclasses.replace(shape, images=images)


def _shift_batch_norms(step: TrainStep) -> dict[str, np.ndarray]:
    """Set every batch norm's beta to ``_BETA``; returns the network's parameters by name."""
    parameters = list(step.network_with_loss.get_parameters())
    weights = {p.name: p.asnumpy().copy() for p in parameters}
    for parameter in parameters:
        owner, _, last = parameter.name.rpartition("beta")
        if f"{owner}moving_mean" in weights and not last:
            weights[parameter.name] = np.full(parameter.shape, _BETA, np.float32)
            assign_parameter(parameter, weights[parameter.name])
    return weights


def compare(
    measured: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    is_rough: bool,
    scale: float = 1.0,
) -> CheckResult:
    """Compare loss and gradients.

    Args:
        measured: gradients by parameter name, and the loss under ``LOSS``.
        expected: the same in float32 from the CPU.
        is_rough: whether ``measured`` was computed in float16 or on a device.
        scale: the loss scale that was used, for the text.
    """
    what = "loss and gradients"
    if measured.keys() != expected.keys():
        names = sorted(measured.keys() ^ expected.keys())
        text = f"the trained parameters differ: {', '.join(names[:5])}"
        return CheckResult(what, BROKEN, text)
    loss, expected_loss = float(measured[LOSS]), float(expected[LOSS])
    loss_error = abs(loss - expected_loss) / max(abs(expected_loss), 1e-12)
    squared_errors = {
        name: float(np.square(measured[name] - value).sum())
        for name, value in expected.items()
        if name != LOSS
    }
    squares = [float(np.square(v).sum()) for name, v in expected.items() if name != LOSS]
    norm = float(np.sqrt(sum(squares)))
    error = float(np.sqrt(sum(squared_errors.values()))) / max(norm, 1e-30)
    # By absolute error: relative errors of tiny gradients are noise. A NaN counts as the largest.
    worst = max(squared_errors, key=lambda name: np.nan_to_num(squared_errors[name], nan=np.inf))
    loss_tolerance, tolerance = _LOSS_TOLERANCE[is_rough], _GRADIENT_TOLERANCE[is_rough]
    text = (
        f"first step against float32 on the CPU: loss {loss:.6g} for {expected_loss:.6g}, off by "
        f"{loss_error:.1e} (at most {loss_tolerance:.0e}); gradients off by {error:.1e} of their "
        f"norm {norm:.3g} (at most {tolerance:.0e}), most in {worst}"
    )
    text += f"; loss scale {scale:g}" if scale != 1 else ""
    numbers = {"loss": loss, "loss_error": loss_error, "gradient_error": error}
    # Written so that a NaN fails.
    if not (loss_error <= loss_tolerance and error <= tolerance):
        remedy = "try --amp_level O0, --jit_level O0 or O1, --native_kernels false: which fixes it?"
        return CheckResult(what, BROKEN, text, remedy, numbers)
    return CheckResult(what, OK, text, numbers=numbers)
