"""The check of all gradients for infinities and NaN."""

from __future__ import annotations

from mindspore import nn, ops

__all__ = ["AllFinite"]


class AllFinite(nn.Cell):
    """Whether all values of all gradients are finite; each gradient is read once.

    Args:
        path: of the library of operators.

    Inputs: a tuple of float32 tensors of any shapes. Outputs: a bool of shape ().
    """

    def __init__(self, path: str) -> None:
        super().__init__(auto_prefix=False)

        def shape(*gradients):
            return [1]

        def kind(first, *others):
            return first

        self.forward = ops.Custom(f"{path}:ghost_all_finite", shape, kind, func_type="aot")

    def construct(self, gradients):
        return self.forward(*gradients).reshape(()) > 0
