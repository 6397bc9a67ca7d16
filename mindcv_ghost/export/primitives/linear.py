"""Products of matrices."""

from __future__ import annotations

from mindcv_ghost.export.primitives.table import translates
from mindcv_ghost.export.translation import Names, Step


@translates("MatMul", "BatchMatMul")
def _matmul(step: Step) -> Names:
    """The third and the fourth argument: whether the first and the second is transposed."""
    factors = []
    for index in (0, 1):
        factor = step.tensor(index)
        if step.argument(2 + index, False):
            axes = list(range(len(step.shape(index))))
            factor = step.emit("Transpose", factor, perm=[*axes[:-2], axes[-1], axes[-2]])
        factors.append(factor)
    return step.emit("MatMul", *factors)


@translates("MatMulExt", "BatchMatMulExt")
def _matmul_ext(step: Step) -> Names:
    return step.emit("MatMul", step.tensor(0), step.tensor(1))


@translates("Dense")
def _dense(step: Step) -> Names:
    """Product of x with the transposed weight, plus the bias if there is one."""
    product = step.emit(
        "MatMul", step.tensor(0), step.emit("Transpose", step.tensor(1), perm=[1, 0])
    )
    return product if step.argument(2) is None else step.emit("Add", product, step.tensor(2))
