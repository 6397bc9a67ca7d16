"""Normalisation by mean and variance, softmax, and division by a norm."""

from __future__ import annotations

import math

import numpy as np

from mindcv_ghost.export.primitives.table import translates
from mindcv_ghost.export.translation import Names, Step


@translates("BatchNorm")
def _batch_norm(step: Step) -> Names:
    """Arguments: x, scale, offset, mean, variance, is_training, epsilon, momentum, format."""
    if step.argument(5):
        raise step.untranslatable("it uses the statistics of the batch, as in training")
    inputs = [step.tensor(i) for i in range(5)]
    return [step.emit("BatchNormalization", *inputs, epsilon=step.argument(6))]


@translates("LayerNorm", "LayerNormV3", "LayerNormExt")
def _layer_norm(step: Step) -> Names:
    """Arguments: x, scale, offset, begin_norm_axis, begin_params_axis, epsilon.

    ``LayerNormExt`` has the normalised shape in the second place instead of the axes.
    """
    if step.call.primitive == "LayerNormExt":
        axis, scale, offset, epsilon = -len(step.numbers(1)), 2, 3, step.argument(4, 1e-5)
    else:
        axis, scale, offset, epsilon = step.argument(3), 1, 2, step.argument(5, 1e-7)
        if len(step.shape(scale)) != (-axis if axis < 0 else len(step.shape(0)) - axis):
            raise step.untranslatable("its scale has other dimensions than it normalises")
    inputs = step.tensor(0), step.tensor(scale), step.tensor(offset)
    return [step.emit("LayerNormalization", *inputs, axis=axis, epsilon=epsilon)]


@translates("GroupNorm")
def _group_norm(step: Step) -> Names:
    """Arguments: x, groups, scale, offset, epsilon.

    ONNX's GroupNormalization has a scale for each group in opset 20, and for each channel, as
    MindSpore, from 21 on. So each group is normalised as if it were one channel.
    """
    shape, groups, dtype = step.shape(0), step.argument(1), step.result.dtype
    x = step.emit("Reshape", step.tensor(0), np.array([0, groups, -1]))
    ones, zeros = np.ones(groups, dtype), np.zeros(groups, dtype)
    x = step.emit("InstanceNormalization", x, ones, zeros, epsilon=step.argument(4, 1e-5))
    x = step.reshape(x, shape)
    channels = (-1, *(1,) * (len(shape) - 2))
    x = step.emit("Mul", x, step.reshape(step.tensor(2), channels))
    return [step.emit("Add", x, step.reshape(step.tensor(3), channels))]


@translates("Softmax", "LogSoftmax")
def _softmax(step: Step) -> Names:
    axes = step.numbers(1) if step.argument(1) is not None else (step.attributes["axis"],)
    if len(axes) != 1:
        raise step.untranslatable(f"it is over several axes, {axes}")
    return step.emit(step.call.primitive, step.tensor(0), axis=axes[0])


@translates("L2Normalize")
def _l2_normalize(step: Step) -> Names:
    """Quotient x / sqrt(max(sum x^2, epsilon)): epsilon bounds the square."""
    axes, epsilon = step.attributes["axis"], step.attributes["epsilon"]
    axes = axes if isinstance(axes, tuple) else (axes,)
    x, dtype = step.tensor(0), step.result.dtype
    norm = step.emit("ReduceL2", x, np.array(axes), keepdims=1)
    return step.emit("Div", x, step.emit("Max", norm, np.array(math.sqrt(epsilon), dtype)))


@translates("LpNorm")
def _lp_norm(step: Step) -> Names:
    given = step.attributes
    order, axes, keep = given["p"], given["axis"], int(given["keep_dims"])
    if order not in (1, 2):
        raise step.untranslatable(f"its order is {order}; ONNX has 1 and 2")
    axes = axes if isinstance(axes, tuple) else (axes,)
    return step.emit(f"ReduceL{order}", step.tensor(0), np.array(axes), keepdims=keep)
