"""MindCV's cross entropy of logits with class indices: one operator, and one for its gradient."""

from __future__ import annotations

from mindcv.loss.cross_entropy_smooth import CrossEntropySmooth
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindcv_ghost.kernels.custom_op import custom_operator, settings_tensor

__all__ = ["CrossEntropy", "is_plain_cross_entropy"]


def is_plain_cross_entropy(loss: nn.Cell) -> bool:
    """Whether :class:`CrossEntropy` computes the same as this loss."""
    return (
        type(loss) is CrossEntropySmooth
        and loss.weight is None
        and loss.reduction in ("mean", "sum")
    )


class CrossEntropy(nn.Cell):
    """A plain ``CrossEntropySmooth``, in float64 inside.

    Args:
        library: path of the library of operators.
        loss: whose settings are read; see :func:`is_plain_cross_entropy`.

    Inputs: logits (N, classes), float32, or a tuple of them and auxiliary logits; labels (N),
    indices of classes of any integer type.
    Outputs: the loss, of shape ().
    """

    def __init__(self, library: str, loss: CrossEntropySmooth) -> None:
        super().__init__(auto_prefix=False)
        self.aux_factor = loss.aux_factor
        self.of_logits = _CrossEntropy(library, loss.smoothing, loss.reduction == "mean")

    def construct(self, logits, labels):
        labels = ops.cast(labels, mstype.float32)
        if not isinstance(logits, tuple):
            return self.of_logits(logits, labels)
        loss = self.of_logits(logits[0], labels)
        if self.aux_factor > 0:
            for auxiliary in logits[1:]:
                loss = loss + self.aux_factor * self.of_logits(auxiliary, labels)
        return loss


class _CrossEntropy(nn.Cell):
    """The loss of logits with labels in float32."""

    def __init__(self, library: str, smoothing: float, mean: bool) -> None:
        super().__init__(auto_prefix=False)
        self.settings: Tensor = settings_tensor(smoothing, mean)

        def one(_, logits, labels):
            return [1]

        def gradient(_, logits, labels, dloss):
            return logits

        self.forward = custom_operator(library, "ghost_cross_entropy", one, 1)
        self.backward = custom_operator(library, "ghost_cross_entropy_backward", gradient, 1)

    def construct(self, logits, labels):
        return self.forward(self.settings, logits, labels).reshape(())

    def bprop(self, logits, labels, out, dout):
        gradient = self.backward(self.settings, logits, labels, dout.reshape(1))
        return gradient, ops.zeros_like(labels)
