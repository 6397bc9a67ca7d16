"""Small .onnx files with this package's description, made by the onnx package alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mindcv_ghost.inference.description import ModelDescription, Preprocessing

SIDE = 6
NAMES = ("red", "green", "blue")


def description(**changes) -> ModelDescription:
    """Of a network that takes the mean of each colour as its logit."""
    values = {
        "model": "means",
        "num_classes": 3,
        "preprocessing": Preprocessing(SIDE, SIDE, SIDE, mean=(0.0,) * 3, std=(64.0,) * 3),
        "class_names": NAMES,
    }
    return ModelDescription(**{**values, **changes})


def write_means(
    path: Path, described: ModelDescription | None, *, batch: int | str = "batch", side: int = SIDE
) -> Path:
    """Write a network whose logits are the mean of each channel.

    Args:
        path: the .onnx file.
        described: its description; None for the file of another program.
        batch: size of a batch, or the name of a free dimension.
        side: of the input.
    """
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    return _save(path, helper.make_graph(nodes, "means", [image], [logits]), described)


def write_embedded(path: Path) -> Path:
    """Write the same for uint8 (1, H, W, 3) of any size: preprocessing is embedded."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "h", "w", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    scale = numpy_helper.from_array(np.float32(64), "scale")
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "embedded", [image], [logits], [axes, scale])
    return _save(path, graph, description(embedded_preprocessing=True))


def _save(path: Path, graph: onnx.GraphProto, described: ModelDescription | None) -> Path:
    # Opset 18 and IR 8: ONNX Runtime 1.19, the last one for Python 3.9, reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if described is not None:
        helper.set_model_props(model, described.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path
