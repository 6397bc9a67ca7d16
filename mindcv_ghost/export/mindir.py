"""MindSpore's graph of a network, read from MindIR, the format that MindSpore exports to.

MindIR is the compiler's own graph: what orders side effects (``Load``, ``UpdateState``,
``Depend``) and what packs tuples is in it, too. None of that computes anything in a network that is
evaluated, so it ends here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train.mind_ir_pb2 import AttributeProto, GraphProto, ModelProto

from mindcv_ghost.export.graph import Argument, Call, Graph, Variable

__all__ = ["trace"]

# TensorProto.DataType; the numbers are those of ONNX.
_DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64,
    9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64, 17: np.float64,
}  # fmt: skip
_MONAD = object()


def trace(network: nn.Cell, shape: tuple[int, ...]) -> Graph:
    """Let MindSpore compile a network for inputs of one shape, and read its graph.

    Args:
        network: in evaluation mode.
        shape: of the input, float32: (batch, channels, height, width).

    Raises:
        Exception: MindSpore's, of any class, where the network doesn't take this shape.
    """
    model = _export(network, shape)
    parameters = {name: p.asnumpy() for name, p in network.parameters_dict().items()}
    return _Reader(model, parameters).read()


def _export(network: nn.Cell, shape: tuple[int, ...]) -> ModelProto:
    """MindSpore's graph without the weights, which the network has anyway."""
    exported = []

    def take(model: ModelProto) -> None:
        copy = ModelProto()
        copy.CopyFrom(model)
        exported.append(copy)
        del model.graph.parameter[:]  # they would be written to the temporary file

    zeros = ms.Tensor(np.zeros(shape, np.float32))
    with _syntax_level_kept(), tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.mindir")
        ms.export(network, zeros, file_name=path, file_format="MINDIR", custom_func=take)
    return exported[0]


@contextlib.contextmanager
def _syntax_level_kept() -> Iterator[None]:
    """ms.export sets MindSpore's syntax level, and leaves it like this when it fails (2.8)."""
    level = ms.get_context("jit_syntax_level")
    try:
        yield
    finally:
        ms.set_context(jit_syntax_level=level)


class _Reader:
    """Reads one model; ``values`` has what each name of the file stands for so far."""

    def __init__(self, model: ModelProto, parameters: dict[str, np.ndarray]) -> None:
        self.primitives = {p.name: p for p in model.primitives}
        self.functions = {f.name: f for f in model.functions}
        self.graph = model.graph
        self.parameters = parameters
        self.calls: list[Call] = []

    def read(self) -> Graph:
        values: dict[str, Argument] = {}
        for parameter in self.graph.parameter:
            name = parameter.name.split(":", 1)[1]
            value = self.parameters[name]
            values[parameter.name] = Variable(name, value.shape, value.dtype)
        (image,) = self.graph.input
        tensor = image.tensor[0]
        source = Variable("image", tuple(tensor.dims), np.dtype(_DTYPES[tensor.data_type]))
        values[image.name] = source
        outputs = self._read_nodes(self.graph, values)
        return Graph(source, outputs, self.parameters, tuple(self.calls))

    def _read_nodes(self, graph: GraphProto, values: dict[str, Argument]) -> tuple[Argument, ...]:
        for node in graph.node:
            values[node.output[0]] = self._read_node(node, values)
        return tuple(values[output.name] for output in graph.output)

    def _read_node(self, node: Any, values: dict[str, Argument]) -> Argument:
        if node.op_type == "Constant":
            return _read_attribute(node.attribute[0])
        reference = node.op_type.split("::", 1)[-1]
        primitive = self.primitives.get(reference)
        if reference in self.functions:
            return self._call_function(reference, [values[name] for name in node.input])
        kind = reference.rsplit(":", 1)[0] if primitive is None else primitive.op_type
        # What a function or a graph is called with, if it isn't a value, is left to the table.
        arguments: Any = tuple(values.get(name) for name in node.input)
        if kind in ("Load", "Depend"):
            return arguments[0]
        if kind == "UpdateState":
            return _MONAD
        if kind in ("MakeTuple", "MakeList"):
            return arguments
        if kind == "TupleGetItem":
            return arguments[0][arguments[1]]
        attributes = {a.name: _read_attribute(a) for a in primitive.attribute} if primitive else {}
        results = _read_results(node)
        self.calls.append(
            Call(
                kind,
                tuple(a for a in arguments if a is not _MONAD),
                attributes,
                results if isinstance(results, tuple) else (results,),
                node.domain,
            )
        )
        return results

    def _call_function(self, name: str, arguments: list[Argument]) -> Argument:
        function = self.functions[name]
        values = dict(zip((i.name for i in function.input), arguments))
        outputs = self._read_nodes(function, values)
        return outputs[0] if len(outputs) == 1 else outputs


def _read_results(node: Any) -> Variable | tuple[Variable, ...]:
    """The variables that a node computes: MindSpore notes their shapes as an attribute."""
    (shape,) = (a for a in node.attribute if a.name == "shape")
    if shape.type != AttributeProto.TUPLE:
        return _variable(node.output[0], shape.tensors[0])
    return tuple(
        _variable(f"{node.output[0]}[{i}]", v.tensors[0]) for i, v in enumerate(shape.values)
    )


def _variable(name: str, tensor: Any) -> Variable:
    return Variable(name, tuple(tensor.dims), np.dtype(_DTYPES[tensor.data_type]))


def _read_attribute(attribute: AttributeProto) -> Argument:
    kind = AttributeProto.AttributeType.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        return tuple(_read_attribute(value) for value in attribute.values)
    if kind == "TENSORS":
        return _read_tensor(attribute.tensors[0])
    if kind in ("UMONAD", "IOMONAD"):
        return _MONAD
    if kind == "NONE":
        return None
    if kind == "STRING":
        return _only(attribute, "s", "strings").decode()
    if kind == "FLOAT":
        # Of float32, but written by people: 1e-5, not 9.999999747378752e-06.
        return float(str(np.float32(_only(attribute, "f", "floats"))))
    if kind == "DOUBLE":
        return _only(attribute, "d", "doubles")
    if kind == "BOOL":
        return bool(_only(attribute, "i", "ints"))
    if kind.startswith(("INT", "UINT")):
        return _only(attribute, "i", "ints")
    # A type, for example (primitives have it beside their arguments): its number.
    return attribute.i if attribute.HasField("i") else None


def _only(attribute: AttributeProto, single: str, repeated: str) -> Any:
    """A number stands in one field by itself, and in another one as an element of a tuple."""
    values = getattr(attribute, repeated)
    return values[0] if values else getattr(attribute, single)


def _read_tensor(tensor: Any) -> np.ndarray:
    dtype = np.dtype(_DTYPES[tensor.data_type])
    return np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))
