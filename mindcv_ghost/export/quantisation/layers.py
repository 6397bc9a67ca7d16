"""The layers that have weights, and what they are in a Ghost network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

__all__ = ["Layer", "activation_of", "weighted_layers"]

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")
_JOINS = ("Concat", "Add")
_SHORTCUTS = ("shortcut", "downsample")  # in the names of their parameters


@dataclass(frozen=True)
class Layer:
    """A node with weights.

    Args:
        name: of the node.
        weight: name of its weight, which is the parameter's in the network.
        kind: "stem" (reads the image), "primary" and "cheap" (of a Ghost module), "depthwise",
            "classifier" (the last one) or "dense"; "shortcut", alone or before one of these, is on
            a block's shortcut.
        macs: multiply-adds for one image; of one output pixel where the size isn't known.
    """

    name: str
    weight: str
    kind: str
    macs: int


def weighted_layers(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers in the order of the graph.

    Args:
        model: with inferred shapes and a name for each node.
    """
    graph = model.graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    pixels = {value.name: _pixels(value) for value in (*graph.value_info, *graph.output)}
    nodes = [n for n in graph.node if n.op_type in _WEIGHTED and n.input[1] in shapes]
    readers = readers_of(graph)
    cheap = {node.name for node in nodes if _is_cheap(node, shapes, readers)}
    images = {value.name for value in graph.input}
    found = []
    for node in nodes:
        shape = shapes[node.input[1]]
        if node.input[0] in images:
            kind = "stem"
        elif node is nodes[-1]:
            kind = "classifier"
        else:
            kind = _kind(node, shape, cheap, readers)
        macs = int(np.prod(shape)) * pixels.get(node.output[0], 1)
        found.append(Layer(node.name, node.input[1], kind, macs))
    return found


def _kind(
    node: onnx.NodeProto,
    shape: list[int],
    cheap: Collection[str],
    readers: Mapping[str, list[onnx.NodeProto]],
) -> str:
    words = []
    if any(word in f"{node.name} {node.input[1]}" for word in _SHORTCUTS):
        words.append("shortcut")
    if node.name in cheap:
        words.append("cheap")
    elif any(reader.name in cheap for reader in readers[activation_of(node, readers)[1]]):
        words.append("primary")
    elif _is_depthwise(node, shape):
        words.append("depthwise")
    return " ".join(words) or "dense"


def readers_of(graph: onnx.GraphProto) -> Mapping[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def activation_of(
    node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[onnx.NodeProto | None, str]:
    """Return the ReLU or clip that alone reads a node's output, and the tensor after it."""
    after = readers[node.output[0]]
    if len(after) == 1 and after[0].op_type in _ACTIVATIONS:
        return after[0], after[0].output[0]
    return None, node.output[0]


def _is_depthwise(node: onnx.NodeProto, shape: list[int]) -> bool:
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return node.op_type == "Conv" and groups > 1 and shape[1] == 1


def _is_cheap(
    node: onnx.NodeProto,
    shapes: Mapping[str, list[int]],
    readers: Mapping[str, list[onnx.NodeProto]],
) -> bool:
    """Whether a depthwise convolution's output is joined with its own input."""
    if not _is_depthwise(node, shapes[node.input[1]]):
        return False
    result = activation_of(node, readers)[1]
    # With an activation behind the join (GhostNetV3, RepGhostNet), the maps join before it.
    return any(
        join.op_type in _JOINS and node.input[0] in join.input
        for tensor in (result, node.output[0])
        for join in readers[tensor]
    )


def _pixels(value: onnx.ValueInfoProto) -> int:
    sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim[2:]]
    return int(np.prod([side or 1 for side in sides]))
