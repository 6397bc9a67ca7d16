"""Overflow checks: are all gradients finite? By their values, or by a register of the device.

On the CPU, on GPUs and on Ascend 910B an overflow leaves an infinity or a NaN in the gradients. An
Ascend 910A, and a 910B with ``MS_ASCEND_CHECK_OVERFLOW_MODE=SATURATION_MODE``, write the largest
number instead and raise a flag in a register of the device. The flag belongs to the device and to
no tensor, and stays until it is cleared: a validation before the step may have raised it.

Both cells have a method ``start(x)``, through which the input of the step goes, and ``construct(
gradients)``, which returns a bool tensor: True if all gradients are finite.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.amp import all_finite
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2, NPUGetFloatStatusV2

__all__ = ["StatusCheck", "ValueCheck"]

_REGISTER_SIZE = 8  # int32 numbers, as both operators of MindSpore 2.8 require


class _AllFinite(nn.Cell):
    """MindSpore's own check, which reads the register if the device has one."""

    def construct(self, gradients):
        return all_finite(gradients)


class _AllValuesFinite(nn.Cell):
    """A check of the values on any device."""

    def construct(self, gradients):
        flags: tuple[Tensor, ...] = ()
        for gradient in gradients:
            flags += (ops.isfinite(gradient).all(),)
        return ops.stack(flags).all()


class ValueCheck(nn.Cell):
    """Checks the gradients' values, which after the all-reduce are the same on all ranks.

    Args:
        cell: returns whether all values of a tuple of gradients are finite; None for MindSpore's
            operators.
        saturates: whether the device has the register. ``mindspore.amp.all_finite`` then reads the
            register instead of the values (MindSpore 2.8, ``mindspore/amp.py``, ``_all_finite``),
            so another check is used.
    """

    per_rank = False

    def __init__(self, cell: nn.Cell | None = None, saturates: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell or (_AllValuesFinite() if saturates else _AllFinite())

    def start(self, x: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Return ``x``: there is nothing to prepare."""
        return x

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Return whether all gradients are finite."""
        return self.cell(gradients)


class StatusCheck(nn.Cell):
    """Checks whether anything has overflowed on this rank's device since ``start``.

    Clearing, computing and reading come in the order of
    ``mindspore.nn.TrainOneStepWithLossScaleCell`` (2.8, ``nn/wrap/loss_scale.py``). Each explicitly
    depends on the one before, because the operators have no inputs that imply an order.
    """

    per_rank = True

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.clear = NPUClearFloatStatusV2()
        self.read = NPUGetFloatStatusV2()
        self.zeros = Tensor([0] * _REGISTER_SIZE, ms.int32)

    def start(self, x: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Return ``x``, and clear the register before it is used."""
        return ops.depend(x, self.clear(ops.depend(self.zeros, x)))

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Return whether the register's flag is still clear."""
        status = self.read(ops.depend(self.zeros, gradients))
        return ops.equal(status, self.zeros).all()
