"""The graph of a network as MindSpore compiles it: calls of primitives, from the input on.

``mindir.py`` reads it from MindSpore, ``traces.py`` finds out what depends on the input's size, and
``translation.py`` makes ONNX of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

__all__ = [
    "Argument",
    "Call",
    "Dimension",
    "Graph",
    "Repeated",
    "Shape",
    "Variable",
    "Varying",
]


@dataclass(frozen=True)
class Varying:
    """A whole number that depends on the size of the input.

    Args:
        samples: its value in each trace of the network.
    """

    samples: tuple[int, ...]

    def __str__(self) -> str:
        return "/".join(map(str, self.samples))


Dimension = Union[int, Varying]
Shape = tuple[Dimension, ...]


@dataclass(frozen=True)
class Variable:
    """A tensor that is computed: the input, a parameter, or a result of a call.

    Args:
        name: unique in the graph; a parameter's is that of MindSpore.
        shape: of the tensor.
        dtype: of the tensor.
    """

    name: str
    shape: Shape
    dtype: np.dtype


@dataclass(frozen=True)
class Repeated:
    """A constant that is as large as the input demands, such as zeros for each image.

    Args:
        base: what is repeated, with length 1 in each axis along which it is.
        shape: of the whole.
    """

    base: np.ndarray
    shape: Shape

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers."""
        return self.base.dtype


# Of a call: a variable; a constant (number, truth value, text, None, array, Varying, Repeated);
# or a tuple of arguments.
Argument = Any


@dataclass(frozen=True)
class Call:
    """One primitive, applied to arguments.

    Args:
        primitive: name, as MindSpore has it.
        arguments: in order.
        attributes: of the primitive.
        results: one variable, or one for each element of the tuple that the primitive returns.
        scope: where in the network, as MindSpore writes it: cell by cell, each with its class.
    """

    primitive: str
    arguments: tuple[Argument, ...]
    attributes: Mapping[str, Any]
    results: tuple[Variable, ...]
    scope: str

    @property
    def layer(self) -> str:
        """The path of the cell, as in the names of its parameters; "" for the network itself."""
        return ".".join(part.split("-")[0] for part in self.scope.split("/")[1:-1])


@dataclass(frozen=True)
class Graph:
    """A network for inputs of one size, or of several if it has :class:`Varying` numbers.

    Args:
        input: the batch of images.
        outputs: as the network returns them; one without a tuple.
        parameters: values by name.
        calls: in an order in which each comes after those that it reads.
    """

    input: Variable
    outputs: tuple[Argument, ...]
    parameters: Mapping[str, np.ndarray]
    calls: tuple[Call, ...]
