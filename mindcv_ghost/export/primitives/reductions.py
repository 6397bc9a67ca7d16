"""Sums, means and extremes over axes."""

from __future__ import annotations

import numpy as np

from mindcv_ghost.export.primitives.table import TABLE, translates
from mindcv_ghost.export.translation import Names, Rule, Step

# Arguments: x, axes, keep_dims, and for some of them more.
_REDUCTIONS = {
    "ReduceMean": "ReduceMean", "MeanExt": "ReduceMean", "ReduceSum": "ReduceSum",
    "SumExt": "ReduceSum", "ReduceMax": "ReduceMax", "AMax": "ReduceMax",
    "ReduceMin": "ReduceMin", "AMin": "ReduceMin", "ReduceProd": "ReduceProd",
}  # fmt: skip


def _reduction(kind: str) -> Rule:
    def rule(step: Step) -> Names:
        axes = () if step.argument(1) is None else step.numbers(1)
        x, keep = step.tensor(0, step.result.dtype), int(step.argument(2, False))
        rank = len(step.shape(0))
        spatial = tuple(range(2, rank))
        positive = tuple(sorted(a % rank for a in axes))
        if kind == "ReduceMean" and keep and rank == 4 and positive == spatial:
            return step.emit("GlobalAveragePool", x)
        inputs = [np.array(axes, np.int64)] if axes else []
        return step.emit(kind, x, *inputs, keepdims=keep)

    return rule


TABLE.update({name: _reduction(kind) for name, kind in _REDUCTIONS.items()})


@translates("CumSum", "CumsumExt")
def _cum_sum(step: Step) -> Names:
    x = step.tensor(0, step.result.dtype)
    exclusive = int(step.attributes.get("exclusive", False))
    reverse = int(step.attributes.get("reverse", False))
    axis = np.array(step.argument(1), np.int64)
    return step.emit("CumSum", x, axis, exclusive=exclusive, reverse=reverse)


@translates("Argmax", "ArgMaxExt")
def _arg_max(step: Step) -> Names:
    axis = step.argument(1, step.attributes.get("axis", -1))
    indices = step.emit("ArgMax", step.tensor(0), axis=axis, keepdims=0)
    return step.cast(indices, step.result.dtype)


@translates("ArgMaxWithValue")
def _arg_max_with_value(step: Step) -> Names:
    """The index and the value of the largest element along an axis."""
    axis, keep = step.argument(1, 0), int(step.argument(2, False))
    indices = step.emit("ArgMax", step.tensor(0), axis=axis, keepdims=keep)
    values = step.emit("ReduceMax", step.tensor(0), np.array([axis]), keepdims=keep)
    return [step.cast(indices, step.result.dtype), values]
