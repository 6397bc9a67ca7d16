"""The same loss and the same gradient as timm's logit distillation."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.config.keys import LossConfig
from mindcv_ghost.engine.distillation import Distillation, SoftLoss, Teacher
from mindcv_ghost.engine.step import NetworkWithLoss
from mindcv_ghost.run.learner import create_loss
from tests.helpers.needs_torch import torch_and_timm

pytestmark = pytest.mark.parity

ROWS, CLASSES = 6, 10


class Fixed(nn.Cell):
    """A network whose weights are its logits."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = Parameter(Tensor(logits), name="logits")

    def construct(self, image):
        return self.logits + 0 * image.sum()


def timms(student, teacher, labels, alpha, temperature):
    """Return timm's loss, task loss and distillation loss, and the gradient of the logits."""
    torch, _ = torch_and_timm()
    from timm.task import distillation

    class Same(torch.nn.Module):
        pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012

        def __init__(self, logits):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.from_numpy(logits))

        def forward(self, image):
            return self.logits

    network = Same(student)
    task = distillation.LogitDistillationTask(
        network,
        distillation.DistillationTeacher(Same(teacher)),
        criterion=torch.nn.CrossEntropyLoss(),
        task_loss_weight=1 - alpha,
        temperature=temperature,
        verbose=False,
    )
    out = task(torch.zeros(ROWS, 3, 2, 2), torch.from_numpy(labels).long())
    out["loss"].backward()
    losses = [float(out[key].detach()) for key in ("loss", "task_loss", "kd_loss")]
    return losses, network.logits.grad.numpy()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_loss_and_gradient_equal_timms(alpha, temperature):
    random = np.random.RandomState(0)
    student, teacher = random.standard_normal((2, ROWS, CLASSES)).astype(np.float32) * 3
    labels = random.randint(0, CLASSES, ROWS).astype(np.int32)
    expected, gradient = timms(student, teacher, labels, alpha, temperature)
    network, other = Fixed(student), Teacher(Fixed(teacher))
    distillation = Distillation(other, SoftLoss(temperature, exact=True), alpha)
    with_loss = NetworkWithLoss(
        network, create_loss(LossConfig()), exact=True, distillation=distillation
    )
    image = Tensor(np.zeros((ROWS, 3, 2, 2), np.float32))
    weights = ms.ParameterTuple([network.logits, other.network.logits])
    (_, reported), (ours, of_teacher) = ops.value_and_grad(
        lambda label: with_loss(image, label, other(image)), None, weights=weights, has_aux=True
    )(Tensor(labels))
    np.testing.assert_allclose(reported.asnumpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(ours.asnumpy(), gradient, atol=1e-6)
    assert not of_teacher.asnumpy().any()
