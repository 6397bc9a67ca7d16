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


@translates("MaxPool3DWithArgmax")
def _max_pool_with_indices(step: Step) -> Names:
    """What ``nn.MaxPool2d`` calls for a padding of its own; the values alone are translated."""
    given = step.attributes
    if given["ceil_mode"]:
        raise step.untranslatable("it rounds up")
    pads = given["pads"]
    return [
        step.emit(
            "MaxPool",
            step.tensor(0),
            kernel_shape=given["ksize"],
            strides=given["strides"],
            dilations=given["dilation"],
            pads=(*pads, *pads),
        )
    ]


@translates("AvgPool3D")
def _avg_pool_3d(step: Step) -> Names:
    """What ``nn.AvgPool2d`` calls for a padding of its own, with a depth of 1."""
    given = step.attributes
    if given["ceil_mode"] or given["divisor_override"]:
        raise step.untranslatable("it rounds up, or divides by a number of its own")
    return step.emit(
        "AveragePool",
        step.tensor(0),
        kernel_shape=given["kernel_size"][-3:],
        strides=given["strides"][-3:],
        pads=(*given["pad_list"][0::2], *given["pad_list"][1::2]),
        count_include_pad=int(given["count_include_pad"]),
    )


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
