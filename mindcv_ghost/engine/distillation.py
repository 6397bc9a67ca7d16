"""Distillation: a trained network, the teacher, gives the student's loss a second target.

Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531). ``step`` holds the
cell that adds both losses up.

MindCV 0.3.0 has no distillation. Its repository has ``DistillLossCell``
(``mindcv/utils/distillation.py``), which needs a student with two outputs, one of them for a
distillation token.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops

from mindcv_ghost.engine.evaluator import Logits

__all__ = ["Distillation", "SoftLoss", "Teacher"]


class SoftLoss(nn.Cell):
    """How far a student's distribution is from its teacher's, both softened by a temperature T.

    ``T**2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the images. It is the
    ``kd_loss`` of timm's ``LogitDistillationTask`` (``timm/task/distillation.py``, timm 1.0.31)::

        prob_s = F.log_softmax(student_logits / T, dim=-1)
        prob_t = F.log_softmax(teacher_logits / T, dim=-1)
        F.kl_div(prob_s, prob_t, reduction="batchmean", log_target=True) * T**2

    ``T**2`` keeps the gradients about as large at any temperature. DeiT's ``losses.py`` and
    MindCV's ``DistillLossCell`` divide by the number of classes as well; timm and this cell don't.

    Args:
        temperature: T, above 0.
        reduction: "mean" over the images, or "sum".
        exact: compute in float64, which the CPU can: the result then doesn't depend on how a kernel
            splits its work (see ``NetworkWithLoss``).

    Inputs: logits of student and teacher, of shape (N, classes).
    Outputs: the loss, float32 of shape (). Its gradient with respect to the teacher's is zero.
    """

    def __init__(self, temperature: float, reduction: str = "mean", exact: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.temperature = temperature
        self.reduction = reduction
        self.dtype = ms.float64 if exact else ms.float32

    def construct(self, student, teacher):
        """Return the loss."""
        teacher = ops.stop_gradient(teacher)
        log_s = _log_softmax(ops.cast(student, self.dtype) / self.temperature)
        log_t = _log_softmax(ops.cast(teacher, self.dtype) / self.temperature)
        divergence = (ops.exp(log_t) * (log_t - log_s)).sum()
        if self.reduction == "mean":
            divergence = divergence / student.shape[0]
        return ops.cast(divergence * self.temperature**2, ms.float32)


def _log_softmax(x):
    """Compute ``ops.log_softmax``, whose float64 is wrong by 3e-6 (MindSpore 2.8, CPU)."""
    x = x - ops.stop_gradient(x.max(-1, keepdims=True))
    return x - ops.log(ops.exp(x).sum(-1, keepdims=True))


class Teacher(Logits):
    """A trained network that answers and never changes.

    It is in evaluation mode, and ``set_train`` of a cell around it doesn't reach it. Its parameters
    take no gradients. Their names begin with ``teacher.``, because a graph can't hold two
    parameters of one name, and a student's may be the same.

    Args:
        network: ``(N, C, H, W) -> (N, classes)`` logits; changed in place, like its parameters.

    Inputs: images of shape (N, C, H, W).
    Outputs: logits, float32 of shape (N, classes).
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(network)
        super().add_flags_recursive(training=False)
        for parameter in network.get_parameters():
            parameter.name = f"teacher.{parameter.name}"
            parameter.requires_grad = False

    def add_flags_recursive(self, **flags: Any) -> nn.Cell:
        """Pass flags on to the network, but never that it is in training."""
        flags.pop("training", None)
        return super().add_flags_recursive(**flags)


class Distillation(nn.Cell):
    """A teacher, and the share that its targets have in the loss.

    The loss is ``(1 - alpha) * hard + alpha * soft``: that of timm's ``LogitDistillationTask`` with
    ``task_loss_weight`` 1 - alpha. The hard loss is the one that compares with labels.

    Args:
        teacher: gives the targets.
        soft_loss: compares logits with them.
        alpha: weight of the soft loss, 0..1.
    """

    def __init__(self, teacher: Teacher, soft_loss: SoftLoss, alpha: float) -> None:
        super().__init__(auto_prefix=False)
        self.teacher = teacher
        self.soft_loss = soft_loss
        self.alpha = alpha

    def construct(self, hard, soft):
        """Return the sum of both losses."""
        return (1 - self.alpha) * hard + self.alpha * soft
