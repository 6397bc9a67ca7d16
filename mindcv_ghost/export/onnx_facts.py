"""What a page or a server needs to know of an exported .onnx file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from mindcv_ghost.errors import DataError
from mindcv_ghost.inference.description import ModelDescription

__all__ = ["OnnxFacts", "TensorFacts", "read_facts"]

# Types of weights; int32 are the biases of int8 layers. int64 are shapes and indices.
_WEIGHTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
_BIASES = (TensorProto.INT32,)


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of the graph.

    Args:
        name: of the tensor.
        data_type: as ONNX names it: "FLOAT", "UINT8".
        dims: its shape; -1 where the size is free.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class OnnxFacts:
    """An .onnx file that this package has written.

    Args:
        path: of the file.
        description: from its metadata.
        input: the only one.
        output: the logits.
        parameters: number of weights.
        number_format: of most weights: "float32", "float16", "int8".
    """

    path: Path
    description: ModelDescription
    input: TensorFacts
    output: TensorFacts
    parameters: int
    number_format: str


def read_facts(path: str | Path) -> OnnxFacts:
    """Read the facts of an exported file.

    Args:
        path: an .onnx file with the metadata that export writes.

    Raises:
        DataError: if it can't be read, isn't ONNX, has no description, or has another number of
            inputs or outputs than one.
    """
    path = Path(path)
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from None
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise DataError(f"{path} isn't an ONNX file: {error}") from None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    description = ModelDescription.from_metadata(metadata, str(path))
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise DataError(
            f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs; a classifier "
            "has one of each: export it by `mindcv-ghost export`"
        )
    parameters, number_format = _weights(model.graph)
    output = _facts(model.graph.output[0])
    return OnnxFacts(path, description, _facts(inputs[0]), output, parameters, number_format)


def _facts(value: onnx.ValueInfoProto) -> TensorFacts:
    tensor = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return TensorFacts(value.name, TensorProto.DataType.Name(tensor.elem_type), dims)


def _weights(graph: onnx.GraphProto) -> tuple[int, str]:
    """Count the weights and name the type that most of them have."""
    scales = {
        name
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in node.input[1:]
    }
    counts: dict[int, int] = {}
    for tensor in graph.initializer:
        if tensor.data_type in _WEIGHTS + _BIASES and tensor.name not in scales:
            size = 1
            for dim in tensor.dims:
                size *= dim
            counts[tensor.data_type] = counts.get(tensor.data_type, 0) + size
    if not counts:
        return 0, "float32"
    most = TensorProto.DataType.Name(max(counts, key=lambda kind: counts[kind])).lower()
    return sum(counts.values()), {"float": "float32", "uint8": "int8"}.get(most, most)
