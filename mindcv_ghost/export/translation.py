"""From MindSpore's graph to ONNX nodes, call by call; the table of ``primitives/`` says how.

A rule of the table gets a :class:`Step`: one call, with functions that add nodes to the ONNX graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Union

import numpy as np
from onnx import helper

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.draft import Draft
from mindcv_ghost.export.graph import Argument, Call, Graph, Repeated, Shape, Variable, Varying
from mindcv_ghost.export.traces import FixedSize

__all__ = ["Rule", "Step", "Translation", "UntranslatablePrimitive", "translate"]

Names = Union[str, Sequence[str]]


class UntranslatablePrimitive(UserError):
    """A primitive of the network, or a use of it, for which the table has no ONNX nodes."""


class Translation:
    """What the calls of a graph have become so far.

    Args:
        graph: what is translated.

    Attributes:
        draft: the ONNX graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.draft = Draft(graph.input.name)
        self._names: dict[str, str] = {}  # of variables
        self._sizes: dict[Varying, str] = {}
        self.bind(graph.input, graph.input.name)
        for name in graph.parameters:
            self.draft.new_name(name)

    def bind(self, variable: Variable, name: str) -> None:
        """Note which tensor of ONNX is a variable of MindSpore's graph."""
        self._names[variable.name] = name
        self.draft.shapes[name] = variable.shape
        self.draft.dtypes[name] = variable.dtype

    def name_of(self, variable: Variable) -> str:
        """Return the tensor that is a variable; parameters enter the draft when they are read."""
        if variable.name not in self._names:
            self.bind(variable, variable.name)
            self.draft.constants[variable.name] = self.graph.parameters[variable.name]
        return self._names[variable.name]

    def size(self, number: Varying) -> str:
        """Return a tensor of one int64 that is a number that depends on the input's size.

        It is taken from a tensor of the graph that has the number as a dimension in every trace, or
        a divisor of it: the batch of the input, the height of a feature map.

        Raises:
            FixedSize: if there is no such tensor.
        """
        if number not in self._sizes:
            self._sizes[number] = self._find_size(number)
        return self._sizes[number]

    def _find_size(self, number: Varying) -> str:
        found = [
            (factor, name, axis)
            for name, shape in self.draft.shapes.items()
            for axis, dimension in enumerate(shape)
            for factor in [_ratio(number, dimension)]
            if factor
        ]
        if found:
            factor, name, axis = min(found, key=lambda f: f[0])
            size = self.draft.add("Shape", [name], "sizes", start=axis, end=axis + 1).output
            if factor == 1:
                return size
            times = self.draft.constant(np.array([factor]), "sizes/factor")
            return self.draft.add("Mul", [size, times], "sizes").output
        raise FixedSize(
            f"this network takes inputs of one size: a layer needs the number {number} for inputs "
            f"of different sizes, which isn't the size of any tensor before it; export it with "
            f"dynamic=('batch',) (--dynamic batch)"
        )


def _ratio(number: Varying, dimension: Any) -> int | None:
    """How many times the dimension the number is in every trace."""
    if not isinstance(dimension, Varying):
        return None
    ratios = {divmod(n, d) for n, d in zip(number.samples, dimension.samples)}
    (quotient, remainder), *others = ratios
    return None if others or remainder else quotient


class Step:
    """One call on its way to ONNX.

    Args:
        translation: that the nodes are added to.
        call: of a primitive.
    """

    def __init__(self, translation: Translation, call: Call) -> None:
        self.translation = translation
        self.call = call
        self.scope = call.layer.replace(".", "/")

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Of the primitive."""
        return self.call.attributes

    @property
    def result(self) -> Variable:
        """What the call returns, or the first of its results."""
        return self.call.results[0]

    def argument(self, index: int, default: Argument = None) -> Argument:
        """Return an argument as MindSpore's graph has it."""
        arguments = self.call.arguments
        return arguments[index] if index < len(arguments) else default

    def numbers(self, index: int) -> tuple[Any, ...]:
        """Return an argument that is a number or a tuple of numbers, as a tuple."""
        value = self.argument(index)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(v, Variable) for v in value):
            raise self.untranslatable(f"argument {index} is computed by the network")
        return value

    def shape(self, index: int) -> Shape:
        """Return the shape of an argument that is a tensor."""
        value = self.argument(index)
        return value.shape if isinstance(value, (Variable, Repeated)) else np.shape(value)

    def tensor(self, index: int, dtype: Any = None) -> str:
        """Return the name of an argument that is a tensor, or becomes one.

        Args:
            index: of the argument.
            dtype: that it should have; a number gets that of the call's result without one.
        """
        return self.tensor_of(self.argument(index), dtype)

    def tensor_of(self, value: Argument, dtype: Any = None) -> str:
        """Return the name of a part of an argument, as :meth:`tensor` does."""
        if isinstance(value, Variable):
            name = self.translation.name_of(value)
            return name if dtype is None or value.dtype == dtype else self.cast(name, dtype)
        if isinstance(value, Repeated):
            base = self.constant(value.base.astype(dtype or value.dtype))
            return self.emit("Expand", base, self.vector(value.shape))
        if isinstance(value, Varying):
            name = self.reshape(self.translation.size(value), ())
            return self.cast(name, dtype or self.result.dtype)
        if dtype is None:
            dtype = value.dtype if isinstance(value, np.ndarray) else self.result.dtype
        return self.constant(np.asarray(value, dtype))

    def constant(self, value: Any) -> str:
        """Add a constant that belongs to this call."""
        name = f"{self.scope}/{self.call.primitive}" if self.scope else self.call.primitive
        return self.translation.draft.constant(value, f"{name}_constant")

    def emit(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node with one output.

        Args:
            kind: of the node, as ONNX names it.
            inputs: names of tensors, or values of constants; "" for an input that is left out.
            attributes: of the node; None for one that is left out.
        """
        return self.emit_several(1, kind, *inputs, **attributes)[0]

    def emit_several(self, outputs: int, kind: str, *inputs: Any, **attributes: Any) -> list[str]:
        """Add a node with several outputs; the arguments are those of :meth:`emit`."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        given = {n: v for n, v in attributes.items() if v is not None}
        return self.translation.draft.add(kind, names, self.scope, outputs, **given).outputs

    def cast(self, name: str, dtype: Any) -> str:
        """Convert a tensor to another type."""
        return self.emit("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def vector(self, numbers: Sequence[int | Varying]) -> str:
        """Return a one-dimensional int64 tensor of numbers, some of which depend on the size."""
        if not any(isinstance(n, Varying) for n in numbers):
            return self.constant(np.array(numbers, np.int64))
        parts: list[str] = []
        fixed: list[int] = []
        for number in [*numbers, None]:
            if isinstance(number, (int, np.integer)):
                fixed.append(int(number))
                continue
            if fixed:
                parts.append(self.constant(np.array(fixed, np.int64)))
                fixed = []
            if number is not None:
                parts.append(self.translation.size(number))
        return parts[0] if len(parts) == 1 else self.emit("Concat", *parts, axis=0)

    def reshape(self, name: str, shape: Shape, source: Shape | None = None) -> str:
        """Reshape a tensor.

        Args:
            name: of the tensor.
            shape: of the result.
            source: of the tensor, where it is known.
        """
        numbers = list(shape)
        varying = [i for i, n in enumerate(numbers) if isinstance(n, Varying)]
        if len(varying) > 1:  # 0 is the dimension of the source in the same place
            for i in varying:
                if source is not None and i < len(source) and source[i] == numbers[i]:
                    numbers[i] = 0
            varying = [i for i, n in enumerate(numbers) if isinstance(n, Varying)]
        if len(varying) == 1 and -1 not in numbers:
            numbers[varying[0]] = -1
        result = self.emit("Reshape", name, self.vector(numbers))
        if -1 not in shape:
            self.translation.draft.shapes[result] = shape
        return result

    def untranslatable(self, reason: str) -> UntranslatablePrimitive:
        """Make the error of a use of a primitive that has no translation."""
        where = f"in {self.call.layer}" if self.call.layer else "in the network itself"
        return UntranslatablePrimitive(
            f"{self.call.primitive} {where} can't be translated to ONNX: {reason}. Replace it in "
            f"the network, add it to mindcv_ghost/export/primitives, or export to MindIR "
            f"(--format mindir)."
        )


Rule = Callable[[Step], Names]


def translate(graph: Graph, table: Mapping[str, Rule]) -> Draft:
    """Translate a graph.

    Args:
        graph: of a network.
        table: for each primitive the rule that adds its nodes and returns the names of its results.

    Returns:
        The nodes and constants; not yet optimised.

    Raises:
        UntranslatablePrimitive: if the table lacks a primitive, or a use of it.
        FixedSize: if a number depends on the input's size in a way that isn't in the graph.
    """
    translation = Translation(graph)
    for call in graph.calls:
        step = Step(translation, call)
        if call.primitive not in table:
            raise step.untranslatable("the table has no such primitive")
        names = table[call.primitive](step)
        names = [names] if isinstance(names, str) else names
        for variable, name in zip(call.results, names):
            translation.bind(variable, name)
    translation.draft.outputs = [translation.name_of(output) for output in graph.outputs]
    return translation.draft
