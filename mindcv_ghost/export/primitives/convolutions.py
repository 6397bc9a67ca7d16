"""Convolutions."""

from __future__ import annotations

from typing import Any

from mindcv_ghost.export.graph import Shape, Varying
from mindcv_ghost.export.primitives.table import translates
from mindcv_ghost.export.translation import Names, Step


@translates("Conv2D", "DepthwiseConv2dNative")
def _conv2d(step: Step) -> Names:
    given = step.attributes
    if given.get("format", "NCHW") != "NCHW":
        raise step.untranslatable(f"its layout is {given['format']}")
    kernel, stride, dilation = (
        tuple(given[name][-2:]) for name in ("kernel_size", "stride", "dilation")
    )
    return step.emit(
        "Conv",
        step.tensor(0),
        step.tensor(1),
        kernel_shape=kernel,
        strides=stride,
        dilations=dilation,
        group=given["group"],
        **padding(step, given, step.shape(0), kernel, stride, dilation),
    )


def padding(
    step: Step, given: Any, shape: Shape, kernel: Any, stride: Any, dilation: Any = (1, 1)
) -> dict[str, Any]:
    """Return ONNX's attributes for the padding of a convolution or a pooling.

    Args:
        step: the call.
        given: its attributes: ``pad_mode``, and ``pad_list`` (or ``pad``) in MindSpore's order:
            top, bottom, left, right.
        shape: of the input.
        kernel: height and width, as the following.
        stride: of the windows.
        dilation: of the kernel.
    """
    mode = str(given.get("pad_mode", "valid")).lower()
    if mode == "valid":
        return {"pads": (0, 0, 0, 0)}
    if mode == "pad":
        top, bottom, left, right = given["pad_list"] if "pad_list" in given else given["pad"]
        return {"pads": (top, left, bottom, right)}
    if mode != "same":
        raise step.untranslatable(f"its padding is {mode!r}")
    totals = [_same(*numbers) for numbers in zip(shape[2:], kernel, stride, dilation)]
    if None in totals:
        return {"auto_pad": "SAME_UPPER"}
    # The odd row or column is at the end.
    return {"pads": (*(t // 2 for t in totals), *(t - t // 2 for t in totals))}


def _same(size: Any, kernel: int, stride: int, dilation: int) -> Any:
    """The padding along one axis; None if it depends on the size of the image."""
    reach = (kernel - 1) * dilation + 1
    if stride == 1:
        return reach - 1
    if isinstance(size, Varying):
        return None
    return max((-(-size // stride) - 1) * stride + reach - size, 0)
