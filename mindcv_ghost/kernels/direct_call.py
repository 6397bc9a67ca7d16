"""Calls of a network's operator that don't go through MindSpore's executor.

For one operator MindSpore runs so much Python and C++ that it costs 0.2 ms even if the operator
does nothing, and 1 to 2 ms behind a network that has just evicted all of it from the caches. Of the
small networks, that was a third of a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

from mindcv_ghost.kernels.arguments import Arguments
from mindcv_ghost.kernels.library import Library

__all__ = ["DirectCall"]


class DirectCall:
    """An operator whose inputs are numbers, one tensor and a network's parameters.

    Calls may run at the same time in several threads, as calls of MindSpore's own may.

    Args:
        library: that has the operator.
        operator: its name.
        numbers: its first input.
        parameters: its inputs after the tensor; each call reads their present values.
    """

    def __init__(
        self,
        library: Library,
        operator: str,
        numbers: Sequence[float],
        parameters: Sequence[Parameter],
    ) -> None:
        self._function = getattr(ctypes.CDLL(str(library.path)), operator)
        self._numbers = np.asarray(numbers, np.float32)
        self._parameters = tuple(parameters)
        self._shapes = [parameter.shape for parameter in parameters]
        self._known = self._describe([0] * len(self._shapes), (), ())  # of the last call

    def __call__(self, x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Compute.

        Args:
            x: float32.
            shape: of the output.

        Returns:
            The output; None if the operator or a parameter's type doesn't allow the call, which
            MindSpore then explains.
        """
        x = x.contiguous()
        # It waits for what still computes the values. As a parameter's own method it takes longer.
        addresses = list(map(Tensor.data_ptr, self._parameters))
        known = self._known
        if known.addresses != addresses or known.shapes != (x.shape, shape):
            if not all(map(_is_as_expected, self._parameters, self._shapes)):
                return None
            known = self._known = self._describe(addresses, x.shape, shape)
        output = np.empty(shape, np.float32)
        pointers = type(known.pointers).from_buffer_copy(known.pointers)
        pointers[1], pointers[len(pointers) - 1] = x.data_ptr(), output.ctypes.data
        is_done = known.arguments.call(self._function, pointers)
        return Tensor.from_numpy(output) if is_done else None

    def _describe(
        self, addresses: list[int], given: tuple[int, ...], output: tuple[int, ...]
    ) -> _Known:
        arguments = Arguments.of([self._numbers.shape, given, *self._shapes, output])
        pointers = arguments.pointers([self._numbers.ctypes.data, None, *addresses, None])
        return _Known(addresses, (given, output), arguments, pointers)


@dataclass(frozen=True)
class _Known:
    """What stays the same from call to call while nothing moves and the shapes stay.

    Args:
        addresses: of the parameters.
        shapes: of the given tensor and of the output.
        arguments: of the operator.
        pointers: to all values, but for the given tensor's and the output's.
    """

    addresses: list[int]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    arguments: Arguments
    pointers: Any


def _is_as_expected(parameter: Parameter, shape: tuple[int, ...]) -> bool:
    return parameter.dtype == mstype.float32 and parameter.shape == shape
