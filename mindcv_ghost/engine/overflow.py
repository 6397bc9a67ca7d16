"""Did a step overflow? Two cells that answer: by the gradients' values, or by a device's register.

On the CPU, on GPUs and on Ascend 910B an overflow leaves an infinity or a NaN in the gradients. An
Ascend 910A, and a 910B with ``MS_ASCEND_CHECK_OVERFLOW_MODE=SATURATION_MODE``, put the largest
number in its place and raise a flag in a register of the device instead. The flag is this device's
own, belongs to no tensor, and stays until it is cleared: whatever ran before, a validation say, may
have raised it.

Both cells offer ``start(x)``, which the step's input goes through, and ``construct(gradients)``.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.amp import all_finite
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2, NPUGetFloatStatusV2

__all__ = ["StatusCheck", "ValueCheck"]

_REGISTER_SIZE = 8  # int32 numbers, as both operators of MindSpore 2.8 want it


class _AllFinite(nn.Cell):
    """MindSpore's own check, which reads the register where there is one."""

    def construct(self, gradients):
        return all_finite(gradients)


class _AllValuesFinite(nn.Cell):
    """A check that looks at the values whatever the device."""

    def construct(self, gradients):
        flags = ()
        for gradient in gradients:
            flags += (ops.isfinite(gradient).all(),)
        return ops.stack(flags).all()


class ValueCheck(nn.Cell):
    """Gradients are finite if all of their values are: the same on all ranks after the all-reduce.

    Args:
        cell: tells whether all values of a tuple of gradients are finite; None for MindSpore's
            operators.
        saturates: whether the device has the register. There ``mindspore.amp.all_finite`` reads it
            instead of the values (MindSpore 2.8, ``mindspore/amp.py``, ``_all_finite``).
    """

    per_rank = False

    def __init__(self, cell: nn.Cell | None = None, saturates: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell or (_AllValuesFinite() if saturates else _AllFinite())

    def start(self, x: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Nothing has to be prepared."""
        return x

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        return self.cell(gradients)


class StatusCheck(nn.Cell):
    """Gradients are finite if nothing has overflowed on this device since ``start``.

    The order of clearing, computing and reading is the one of
    ``mindspore.nn.TrainOneStepWithLossScaleCell`` (2.8, ``nn/wrap/loss_scale.py``): each is made to
    depend on what comes before, as the operators have no inputs that would say so.
    """

    per_rank = True

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.clear = NPUClearFloatStatusV2()
        self.read = NPUGetFloatStatusV2()
        self.zeros = Tensor([0] * _REGISTER_SIZE, ms.int32)

    def start(self, x: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Clear the register before ``x`` is used."""
        return ops.depend(x, self.clear(ops.depend(self.zeros, x)))

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        status = self.read(ops.depend(self.zeros, gradients))
        return ops.equal(status, self.zeros).all()
