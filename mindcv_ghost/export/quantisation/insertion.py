"""A quantised model from ranges: onnxruntime's quantiser inserts QuantizeLinear and its inverse."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator

import onnx
from onnx import shape_inference
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.quantisation.calibration import QUANTISED_TYPES, Ranges
from mindcv_ghost.export.quantisation.layers import activation_of, readers_of
from mindcv_ghost.export.quantisation.scheme import Scheme

__all__ = ["insert_quantisation", "prepare"]

# A scale for each filter came with this opset (QuantizeLinear's attribute axis).
_MIN_OPSET = 13


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with inferred shapes and a name for each node, which quantisation needs.

    Raises:
        UserError: if the model isn't float32 with one input of images, or its opset is too old.
    """
    opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset < _MIN_OPSET:
        raise UserError(
            f"the model has opset {opset}, but int8 with a scale for each filter needs opset "
            f"{_MIN_OPSET} or newer: export it by `mindcv-ghost export`"
        )
    inputs = model.graph.input
    kinds = [value.type.tensor_type.elem_type for value in inputs]
    if kinds != [onnx.TensorProto.FLOAT] or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise UserError(
            "int8 needs a model with one float32 input (batch, channels, height, width): quantise "
            "the float32 export, without embedded preprocessing or float16 weights"
        )
    model = shape_inference.infer_shapes(model)
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{number}"
        seen.add(node.name)
    return model


def insert_quantisation(
    model: onnx.ModelProto,
    ranges: Ranges,
    scheme: Scheme,
    *,
    only: Collection[str] = (),
    excluded: Collection[str] = (),
) -> onnx.ModelProto:
    """Return the quantised model.

    Args:
        model: as :func:`prepare` returned it; it isn't changed.
        ranges: of its tensors.
        scheme: the integers.
        only: names of layers; nothing else is quantised. () for everything.
        excluded: names of layers that stay in float32, with the ReLU or clip behind them.
    """
    readers = readers_of(model.graph)
    nodes = {node.name: node for node in model.graph.node}

    def with_activations(names: Collection[str]) -> list[str]:
        found = [activation_of(nodes[name], readers)[0] for name in names]
        return [*names, *(node.name for node in found if node is not None)]

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    uint8 = scheme.activation == "uint8"
    with _quiet():
        quantiser = QDQQuantizer(
            copy,
            per_channel=scheme.per_channel,
            reduce_range=scheme.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if uint8 else QuantType.QInt8,
            tensors_range=dict(ranges),  # it changes some
            nodes_to_quantize=with_activations(only),
            nodes_to_exclude=with_activations(excluded),
            op_types_to_quantize=list(QUANTISED_TYPES),
            extra_options={"ActivationSymmetric": not uint8},
        )
        quantiser.quantize_model()
    quantiser.model.topological_sort()
    return quantiser.model.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back onnxruntime's notes, which go to the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
