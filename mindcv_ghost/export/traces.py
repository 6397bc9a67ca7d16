"""What in a network's graph depends on the size of its input.

MindSpore compiles a network for one shape, and the shape is in every constant: the 392 of a reshape
may be 2 images of 196 patches. Compiled for several shapes, the graphs have the same calls, and
numbers that differ depend on the input's size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import nn

from mindcv_ghost.errors import UserError, first_line
from mindcv_ghost.export import mindir
from mindcv_ghost.export.graph import Argument, Call, Graph, Repeated, Variable, Varying

__all__ = ["DYNAMIC", "FixedSize", "other_sizes", "trace"]

DYNAMIC = ("batch", "size")
"""What may vary between the inputs of an exported network: number of images; height and width."""

# Batches of the traces. A number that is b images' share times b in both can't be a coincidence
# often; with a prime that no network's dimensions have as a factor, it is even rarer.
_BATCHES = (2, 11)

_STRIDE = 32  # of whole networks, as a rule


class FixedSize(UserError):
    """The network takes images of one size, or batches of one size."""


class _Mismatch(Exception):
    """Graphs for inputs of different sizes differ in more than numbers."""


def trace(
    network: nn.Cell, in_channels: int, image_size: tuple[int, int], dynamic: Sequence[str]
) -> Graph:
    """Compile a network for several inputs, and mark the numbers that depend on their size.

    Args:
        network: in evaluation mode.
        in_channels: of the images.
        image_size: height and width, which the first trace has.
        dynamic: which of :data:`DYNAMIC` may vary.

    Returns:
        The graph. A number that differs between the traces is a ``Varying``.

    Raises:
        FixedSize: if the network refuses another size, or becomes another network for it.
    """
    height, width = image_size
    batch, other_batch = _BATCHES if "batch" in dynamic else (1, 1)
    graphs = [mindir.trace(network, (batch, in_channels, height, width))]
    if "batch" in dynamic:
        graphs.append(mindir.trace(network, (other_batch, in_channels, height, width)))
    if "size" not in dynamic:
        try:
            return _merge(graphs)
        except _Mismatch as mismatch:
            raise FixedSize(
                f"{type(network).__name__} takes batches of one size ({mismatch}); export it with "
                f"dynamic=(), for one image"
            ) from mismatch
    problems = []
    for size in other_sizes(height, width):
        try:
            other = mindir.trace(network, (batch, in_channels, *size))
            return _merge([*graphs, other])
        except Exception as error:  # MindSpore raises errors of many classes
            problems.append(error)
    reason = first_line(problems[-1])
    raise FixedSize(
        f"{type(network).__name__} takes images of one size, {height} x {width} pixels ({reason}); "
        f"export it with dynamic=('batch',) (--dynamic batch)"
    ) from problems[-1]


def other_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return sizes of images to compile a network for besides its own, in the order of trial.

    The first is odd, and stays odd wherever a layer halves it and rounds up. So a layer that rounds
    down, such as the pooling in GhostNetV2's attention, has another size than the layer beside it
    that rounds up, and the two aren't taken for each other. Neither are heights and widths: their
    ratio is about the root of 2, so that halving one never gives the other. Some networks need
    multiples of 32.

    >>> other_sizes(224, 224)  # 289, 145, 73, 37, 19 and 417, 209, 105, 53, 27
    [(289, 417), (288, 416)]
    """
    rows = _STRIDE * (height // _STRIDE + 2)
    columns = _STRIDE * round(math.sqrt(2) * max(rows, width) / _STRIDE)
    return [(rows + 1, columns + 1), (rows, columns)]


def _merge(graphs: list[Graph]) -> Graph:
    return _Merge(graphs).graph() if len(graphs) > 1 else graphs[0]


class _Merge:
    """Walks side by side through graphs of the same calls."""

    def __init__(self, graphs: list[Graph]) -> None:
        self.graphs = graphs
        self.names: list[dict[str, str]] = [{} for _ in graphs[1:]]  # to those of the first graph

    def graph(self) -> Graph:
        first = self.graphs[0]
        source = self._variable([g.input for g in self.graphs])
        calls_of = [g.calls for g in self.graphs]
        if len({tuple(c.primitive for c in calls) for calls in calls_of}) > 1:
            raise _Mismatch("it computes other layers for another one")
        calls = tuple(self._call(calls) for calls in zip(*calls_of))
        outputs = self._argument([g.outputs for g in self.graphs], "the output")
        return dataclasses.replace(first, input=source, calls=calls, outputs=outputs)

    def _call(self, calls: Sequence[Call]) -> Call:
        first = calls[0]
        results = tuple(
            self._variable(variables) for variables in zip(*(call.results for call in calls))
        )
        where = f"{first.primitive} in {first.layer or 'the network'}"
        arguments = self._argument([call.arguments for call in calls], where)
        attributes = {
            name: self._argument([call.attributes[name] for call in calls], where)
            for name in first.attributes
        }
        return dataclasses.replace(
            first, results=results, arguments=arguments, attributes=attributes
        )

    def _variable(self, variables: Sequence[Variable]) -> Variable:
        first = variables[0]
        for names, variable in zip(self.names, variables[1:]):
            names[variable.name] = first.name
        shape = tuple(_varying(numbers) for numbers in zip(*(v.shape for v in variables)))
        return dataclasses.replace(first, shape=shape)

    def _argument(self, arguments: Sequence[Argument], where: str) -> Any:
        first = arguments[0]
        if len({type(a) for a in arguments}) > 1:
            raise _Mismatch(f"{where} is another one for another size")
        if isinstance(first, tuple):
            return tuple(self._argument(parts, where) for parts in zip(*arguments))
        if isinstance(first, Variable):
            return self._read(arguments, where)
        if isinstance(first, np.ndarray):
            return self._array(arguments, where)
        if all(a == first for a in arguments):
            return first
        if type(first) is int:
            return Varying(tuple(arguments))
        raise _Mismatch(f"{where} has the constants {arguments}")

    def _read(self, variables: Sequence[Variable], where: str) -> Variable:
        for names, variable in zip(self.names, variables[1:]):
            if names.get(variable.name, variable.name) != variables[0].name:
                raise _Mismatch(f"{where} reads another tensor for another size")
        return self._variable(variables)

    def _array(self, arrays: Sequence[np.ndarray], where: str) -> np.ndarray | Repeated:
        if all(_same(a, arrays[0]) for a in arrays[1:]):
            return arrays[0]
        bases = [_base(array) for array in arrays]
        if len({a.ndim for a in arrays}) == 1 and all(_same(b, bases[0]) for b in bases[1:]):
            return Repeated(bases[0], tuple(map(_varying, zip(*(a.shape for a in arrays)))))
        raise _Mismatch(f"{where} has a table that was computed for one")


def _base(array: np.ndarray) -> np.ndarray:
    """An array without its repetition: with length 1 in each axis along which it is constant."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis)
        if np.array_equal(np.broadcast_to(first, array.shape), array):
            array = first
    return array


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)


def _varying(numbers: Sequence[int]) -> int | Varying:
    return numbers[0] if len(set(numbers)) == 1 else Varying(tuple(numbers))
