"""Small ONNX models with random weights, in the operators that an export consists of."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CLASSES, SIDE = 4, 12
_OUTLIER = 2000.0


class _Builder:
    def __init__(self) -> None:
        self.random = np.random.default_rng(5)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], name: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], f"{name}/{kind}", **attributes))
        return name

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(self, source: str, name: str, shape: tuple, groups: int = 1, scale=None) -> str:
        value = self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        if scale is not None:
            value *= np.reshape(scale, (-1, 1, 1, 1))
        bias = self.weight(f"{name}.bias", self.random.normal(size=shape[0]) * 0.1)
        pads = [shape[2] // 2] * 4
        inputs = [source, self.weight(f"{name}.weight", value), bias]
        return self.add("Conv", inputs, name, group=groups, pads=pads)

    def model(self, opset: int = 17) -> onnx.ModelProto:
        pool = self.add("GlobalAveragePool", [self.nodes[-1].output[0]], "pool")
        flat = self.add("Flatten", [pool], "flat")
        value = self.random.normal(size=(CLASSES, 8))
        weight = self.weight("classifier.weight", value)
        bias = self.weight("classifier.bias", np.zeros(CLASSES))
        self.nodes.append(
            helper.make_node("Gemm", [flat, weight, bias], ["logits"], "classifier/Gemm", transB=1)
        )
        shape = ["batch", 3, SIDE, SIDE]
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        entry = model.metadata_props.add()
        entry.key, entry.value = "model", "small"
        return _centred(model)


def _centred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Choose the classifier's bias so that no class has all images."""
    options = {"providers": ["CPUExecutionProvider"]}
    session = onnxruntime.InferenceSession(model.SerializeToString(), **options)
    logits = np.concatenate([session.run(None, {"image": batch})[0] for batch in images(256)])
    for tensor in model.graph.initializer:
        if tensor.name == "classifier.bias":
            tensor.CopyFrom(numpy_helper.from_array(-logits.mean(0), tensor.name))
    return model


def ghost_block(opset: int = 17) -> onnx.ModelProto:
    """Return a stem, a Ghost module, a shortcut and a classifier."""
    b = _Builder()
    stem = b.add("Relu", [b.conv("image", "stem", (8, 3, 3, 3))], "stem_act")
    primary = b.add("Relu", [b.conv(stem, "block.primary", (4, 8, 1, 1))], "primary_act")
    cheap = b.conv(primary, "block.cheap", (4, 1, 3, 3), groups=4)
    cheap = b.add("Relu", [cheap], "cheap_act")
    joined = b.add("Concat", [primary, cheap], "joined", axis=1)
    b.add("Relu", [b.add("Add", [joined, b.conv(stem, "shortcut", (8, 8, 1, 1))], "sum")], "out")
    return b.model(opset)


def with_outlier_channel() -> onnx.ModelProto:
    """Return a network that loses all but one channel between two layers if they are int8.

    The first layer's channel 0 is 2,000 times as large as the others, and the second layer takes
    the others only.
    """
    b = _Builder()
    stem = b.add("Relu", [b.conv("image", "stem", (8, 3, 3, 3))], "stem_act")
    scale = [_OUTLIER, *[1.0] * 7]
    wide = b.add("Relu", [b.conv(stem, "wide", (8, 8, 1, 1), scale=scale)], "wide_act")
    b.conv(wide, "narrow", (8, 8, 1, 1))
    for tensor in b.weights:
        if tensor.name == "narrow.weight":
            value = numpy_helper.to_array(tensor).copy()
            value[:, 0] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    b.add("Relu", ["narrow"], "narrow_act")
    b.add("Relu", [b.conv("narrow_act", "last", (8, 8, 3, 3))], "last_act")
    return b.model()


def images(count: int = 48, seed: int = 0) -> list[np.ndarray]:
    """Return batches of 16."""
    random = np.random.default_rng(seed)
    # Contrast differs from image to image, so that classes do.
    found = random.normal(size=(count, 3, SIDE, SIDE)) + random.normal(size=(count, 3, 1, 1))
    return [found[start : start + 16].astype(np.float32) for start in range(0, count, 16)]
