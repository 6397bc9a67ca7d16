"""A network as an .onnx file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from mindspore import nn
from onnx import TensorProto, helper

from mindcv_ghost.analysis.hooks import evaluation_mode
from mindcv_ghost.errors import UserError
from mindcv_ghost.export.draft import Draft
from mindcv_ghost.export.float16 import to_float16
from mindcv_ghost.export.graph import Graph, Variable, Varying
from mindcv_ghost.export.optimisation import optimise
from mindcv_ghost.export.optimisation.constants import OPSET
from mindcv_ghost.export.primitives import TABLE
from mindcv_ghost.export.traces import DYNAMIC, trace
from mindcv_ghost.export.translation import translate
from mindcv_ghost.inference.description import ModelDescription
from mindcv_ghost.kernels.exchange import ordinary_cells
from mindcv_ghost.storage.atomic_file import write_bytes
from mindcv_ghost.version import __version__

__all__ = ["INPUT", "OUTPUT", "build_onnx", "to_onnx"]

INPUT, OUTPUT = "image", "logits"
"""The network's input, float32 (batch, channels, height, width), and output, (batch, classes)."""

# The format that belongs to opset 20. onnx writes its own newest one, which ONNX Runtime reads only
# from about the same month on.
_IR_VERSION = 9
_MOST_BYTES = 2**31 - 1  # of a protobuf message


def to_onnx(
    network: nn.Cell,
    path: str | os.PathLike,
    *,
    image_size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    dynamic: Sequence[str] = ("batch",),
    fp16: bool = False,
    description: ModelDescription | None = None,
) -> None:
    """Write a network as an .onnx file.

    Args:
        network: with its weights, accelerated or not, in training or in evaluation mode; it stays
            as it is. The file has it in evaluation mode and in deploy form.
        path: of the file, which is replaced in one step; its folder must exist.
        image_size: height and width of the images, in pixels.
        in_channels: of the images.
        dynamic: what may vary: "batch", "size" (height and width), both, or nothing.
        fp16: whether weights and arithmetic are float16; input and output stay float32.
        description: that goes into the file's metadata.

    Raises:
        UntranslatablePrimitive: if the network has a primitive without translation.
        FixedSize: if the network can't do what ``dynamic`` asks for.
        UserError: if the network returns several tensors, the file would be larger than 2 GB, or it
            can't be written.
    """
    model = build_onnx(
        network, image_size=image_size, in_channels=in_channels, dynamic=dynamic, fp16=fp16
    )
    if description is not None:
        helper.set_model_props(model, description.to_metadata())
    try:
        write_bytes(path, model.SerializeToString())
    except OSError as error:
        raise UserError(f"{os.fspath(path)} can't be written: {error.strerror}") from error


def build_onnx(
    network: nn.Cell,
    *,
    image_size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    dynamic: Sequence[str] = ("batch",),
    fp16: bool = False,
) -> onnx.ModelProto:
    """Return a network as ONNX's message, checked; the arguments are those of :func:`to_onnx`."""
    unknown = [name for name in dynamic if name not in DYNAMIC]
    if unknown:
        raise UserError(f"dynamic is any of {', '.join(DYNAMIC)}; not {', '.join(unknown)}")
    with evaluation_mode(network), ordinary_cells(network):
        graph = trace(network, in_channels, image_size, dynamic)
    _check_outputs(network, graph)
    draft = translate(graph, TABLE)
    optimise(draft)
    _finish_output(draft)
    if fp16:
        to_float16(draft)
    draft.rename(draft.outputs[0], OUTPUT)
    return _check(_model(draft))


def _check_outputs(network: nn.Cell, graph: Graph) -> None:
    outputs = graph.outputs
    if len(outputs) != 1 or not isinstance(outputs[0], Variable):
        count = len(outputs[0]) if isinstance(outputs[0], tuple) else len(outputs)
        raise UserError(
            f"{type(network).__name__} returns {count} tensors in evaluation mode; a network that "
            f"is exported returns one, the logits: wrap it in a cell that returns only these"
        )


def _finish_output(draft: Draft) -> None:
    """Let the output be float32, and computed, for it to get a name of its own."""
    (output,) = draft.outputs
    if draft.dtypes[output] != np.float32:
        node = draft.add("Cast", [output], "", to=TensorProto.FLOAT)
    elif draft.producer(output) is None:  # the input, or a constant
        node = draft.add("Identity", [output], "")
    else:
        return
    draft.outputs = [node.output]
    draft.shapes[node.output], draft.dtypes[node.output] = draft.shapes[output], np.dtype("f4")


def _model(draft: Draft) -> onnx.ModelProto:
    fixed = draft.shapes[INPUT]
    names = ("batch", "channels", "height", "width")
    shape = [name if isinstance(n, Varying) else n for name, n in zip(names, fixed)]
    source = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)
    # A dimension of the result that varies is the batch, or has no name.
    known: dict[Any, str] = {fixed[0]: "batch"}
    result_shape = [known.get(n) if isinstance(n, Varying) else n for n in draft.shapes[OUTPUT]]
    result = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, result_shape)
    graph = draft.to_onnx("network", [source], [result])
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mindcv-ghost",
        producer_version=__version__,
    )


def _check(model: onnx.ModelProto) -> onnx.ModelProto:
    if model.ByteSize() > _MOST_BYTES:
        raise UserError(
            f"the .onnx file would have {model.ByteSize() / 2**30:.1f} GB, and one file holds 2 "
            f"GB; fp16=True (--fp16) halves it"
        )
    onnx.checker.check_model(model, full_check=True)
    return model
