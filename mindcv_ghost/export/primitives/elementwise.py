"""Arithmetic and activation functions: one number of the result for one of the arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindcv_ghost.export.graph import Variable
from mindcv_ghost.export.primitives.table import TABLE, translates
from mindcv_ghost.export.translation import Names, Rule, Step

# A primitive that is a node of ONNX, with the attributes that make it so.
_ONE_ARGUMENT: dict[str, tuple[str, dict[str, Any]]] = {
    "Abs": ("Abs", {}),
    "Ceil": ("Ceil", {}),
    "Cos": ("Cos", {}),
    "Erf": ("Erf", {}),
    "Exp": ("Exp", {}),
    "Floor": ("Floor", {}),
    # x * relu6(x + 3) / 6 and relu6(x + 3) / 6
    "HSigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "HSwish": ("HardSwish", {}),
    "Log": ("Log", {}),
    "LogicalNot": ("Not", {}),
    "Neg": ("Neg", {}),
    "ReLU": ("Relu", {}),
    "Reciprocal": ("Reciprocal", {}),
    "Round": ("Round", {}),  # both to even
    "Sigmoid": ("Sigmoid", {}),
    "Sign": ("Sign", {}),
    "Sin": ("Sin", {}),
    "Softplus": ("Softplus", {}),
    "Sqrt": ("Sqrt", {}),
    "Tanh": ("Tanh", {}),
}
# Of two tensors of one type, or a tensor and a number.
_ARITHMETIC = {
    "Add": "Add", "BiasAdd": "Add", "Adds": "Add", "Sub": "Sub", "Subs": "Sub", "Mul": "Mul",
    "Muls": "Mul", "Div": "Div", "Divs": "Div", "RealDiv": "Div", "Pow": "Pow",
    "Maximum": "Max", "Minimum": "Min",
}  # fmt: skip
# Of two tensors of one type; the result is a truth value.
_COMPARISONS = {
    "Equal": "Equal", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less",
    "LessEqual": "LessOrEqual", "LogicalAnd": "And", "LogicalOr": "Or",
}  # fmt: skip


def _one_argument(kind: str, attributes: dict[str, Any]) -> Rule:
    return lambda step: step.emit(kind, step.tensor(0), **attributes)


def _arithmetic(kind: str) -> Rule:
    def rule(step: Step) -> Names:
        dtype = step.result.dtype
        return step.emit(kind, step.tensor(0, dtype), step.tensor(1, dtype))

    return rule


def _comparison(kind: str) -> Rule:
    def rule(step: Step) -> Names:
        dtype = next(a.dtype for a in step.call.arguments if isinstance(a, (Variable, np.ndarray)))
        return step.emit(kind, step.tensor(0, dtype), step.tensor(1, dtype))

    return rule


TABLE.update({name: _one_argument(*row) for name, row in _ONE_ARGUMENT.items()})
TABLE.update({name: _arithmetic(kind) for name, kind in _ARITHMETIC.items()})
TABLE.update({name: _comparison(kind) for name, kind in _COMPARISONS.items()})


@translates("BiasAdd")
def _bias_add(step: Step) -> Names:
    """The bias belongs to the channels, which are the second dimension."""
    if step.argument(2, "NCHW") not in (0, "NCHW"):
        raise step.untranslatable("its layout isn't NCHW")
    bias, rank = step.tensor(1), len(step.shape(0))
    if rank > 2:
        bias = step.reshape(bias, (-1, *(1,) * (rank - 2)))
    return step.emit("Add", step.tensor(0), bias)


@translates("AddExt", "InplaceAddExt", "SubExt", "InplaceSubExt")
def _scaled_sum(step: Step) -> Names:
    """Of x and alpha y. What is written in place is read as the call's result from there on."""
    dtype = step.result.dtype
    other, alpha = step.tensor(1, dtype), step.argument(2, 1)
    if alpha != 1:
        other = step.emit("Mul", other, np.array(alpha, dtype))
    kind = "Sub" if "Sub" in step.call.primitive else "Add"
    return step.emit(kind, step.tensor(0, dtype), other)


@translates("ReLU6")
def _relu6(step: Step) -> Names:
    dtype = step.result.dtype
    return step.emit("Clip", step.tensor(0), np.array(0, dtype), np.array(6, dtype))


@translates("SiLU", "Swish")
def _silu(step: Step) -> Names:
    x = step.tensor(0)
    return step.emit("Mul", x, step.emit("Sigmoid", x))


@translates("GeLU")
def _gelu_tanh(step: Step) -> Names:
    """The approximation by tanh, as MindSpore's kernels compute it."""
    return step.emit("Gelu", step.tensor(0), approximate="tanh")


@translates("GeluExt")
def _gelu(step: Step) -> Names:
    """0: exact; 1: by tanh."""
    approximate = "tanh" if step.argument(1, 0) in (1, "tanh") else "none"
    return step.emit("Gelu", step.tensor(0), approximate=approximate)


@translates("Elu")
def _elu(step: Step) -> Names:
    alpha = step.argument(1, step.attributes.get("alpha", 1.0))
    return step.emit("Elu", step.tensor(0), alpha=alpha)


@translates("LeakyReLU", "LeakyReLUExt")
def _leaky_relu(step: Step) -> Names:
    return step.emit("LeakyRelu", step.tensor(0), alpha=float(step.argument(1, 0.01)))


@translates("PReLU")
def _prelu(step: Step) -> Names:
    slope, rank = step.tensor(1), len(step.shape(0))
    return step.emit("PRelu", step.tensor(0), step.reshape(slope, (-1, *(1,) * (rank - 2))))


@translates("Mish")
def _mish(step: Step) -> Names:
    return step.emit("Mish", step.tensor(0))


@translates("Square")
def _square(step: Step) -> Names:
    x = step.tensor(0)
    return step.emit("Mul", x, x)


@translates("Rsqrt")
def _rsqrt(step: Step) -> Names:
    return step.emit("Reciprocal", step.emit("Sqrt", step.tensor(0)))


@translates("FloorDiv")
def _floor_div(step: Step) -> Names:
    dtype = step.result.dtype
    quotient = step.emit("Div", step.tensor(0, dtype), step.tensor(1, dtype))
    return step.emit("Floor", quotient) if np.issubdtype(dtype, np.floating) else quotient


@translates("NotEqual")
def _not_equal(step: Step) -> Names:
    return step.emit("Not", _comparison("Equal")(step))


@translates("Identity", "StopGradient")
def _identity(step: Step) -> Names:
    return step.tensor(0)


@translates("Cast")
def _cast(step: Step) -> Names:
    return step.cast(step.tensor(0), step.result.dtype)


@translates("Select")
def _select(step: Step) -> Names:
    dtype = step.result.dtype
    return step.emit(
        "Where", step.tensor(0, np.bool_), step.tensor(1, dtype), step.tensor(2, dtype)
    )


@translates("ClampScalar", "ClampTensor", "ClipByValue")
def _clip(step: Step) -> Names:
    dtype = step.result.dtype
    limits = ["" if step.argument(i) is None else step.tensor(i, dtype) for i in (1, 2)]
    return step.emit("Clip", step.tensor(0), *limits)
