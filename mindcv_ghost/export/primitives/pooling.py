"""Pooling over windows of a feature map."""

from __future__ import annotations

from mindcv_ghost.export.primitives.convolutions import padding
from mindcv_ghost.export.primitives.table import translates
from mindcv_ghost.export.translation import Names, Step

# Of the pad_mode of primitives that have it as an argument (ops/auto_generate/gen_arg_handler.py).
_PAD_MODES = {0: "pad", 1: "same", 2: "valid"}


@translates("MaxPool")
def _max_pool(step: Step) -> Names:
    given = step.attributes
    kernel, stride = given["kernel_size"][-2:], given["strides"][-2:]
    pads = padding(step, given, step.shape(0), kernel, stride)
    return step.emit("MaxPool", step.tensor(0), kernel_shape=kernel, strides=stride, **pads)


@translates("AvgPool")
def _avg_pool(step: Step) -> Names:
    """Arguments: x, kernel size, strides, pad_mode, format. What is padded doesn't count."""
    kernel, stride = step.numbers(1)[-2:], step.numbers(2)[-2:]
    mode = _PAD_MODES.get(step.argument(3), step.argument(3))
    pads = padding(step, {"pad_mode": mode}, step.shape(0), kernel, stride)
    return step.emit(
        "AveragePool",
        step.tensor(0),
        kernel_shape=kernel,
        strides=stride,
        count_include_pad=0,
        **pads,
    )
