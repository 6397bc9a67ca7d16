"""Evaluation of a whole network as one operator.

The operator's program is made of the cells as they are when MindSpore compiles the network. Its
parameters are inputs of the operator, so that each call reads their present values. Where a cell
has no steps, or has to be called by itself, the network stays one operator a layer.
"""

from __future__ import annotations

import weakref
from dataclasses import astuple
from typing import Any

from mindspore import ParameterTuple, nn

from mindcv_ghost.kernels.custom_op import custom_operator, settings_tensor
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell, has_hooks, is_mixed_precision
from mindcv_ghost.kernels.program import Maps, NotCovered, Program

__all__ = ["Evaluation", "NativeNetwork"]


class Evaluation(nn.Cell):
    """A program as an operator.

    Args:
        library: that has the operators.
        program: the steps and their parameters.
        result: what the last step computes.

    Inputs: images (N, C, H, W).
    Outputs: the last step's maps (N, channels, h, w), or (N, channels) if they have one position.
    """

    def __init__(self, library: Library, program: Program, result: Maps) -> None:
        super().__init__(auto_prefix=False)
        self.steps = settings_tensor(*(float(n) for step in program.steps for n in astuple(step)))
        self.parameters = ParameterTuple(program.parameters)

        def shape(_, x, *others):
            if result.reduction == 0:
                return [x[0], result.channels]
            sides = (-(-side // result.reduction) for side in x[2:])
            return [x[0], result.channels, *sides]

        constants = [result.channels, result.reduction]
        self.forward = custom_operator(library, "ghost_program", shape, 1, constants)

    def construct(self, x):
        return self.forward(self.steps, x, *self.parameters)


class NativeNetwork(NativeCell):
    """A native cell that is evaluated as one operator wherever its cells allow it.

    Its operator has the attribute ``library``.
    """

    def __getattr__(self, name: str) -> Any:
        """Find ``evaluation``, the operator of the network as it is now, or None.

        MindSpore asks for it when it compiles ``construct``, and PyNative mode at each call.
        """
        if name == "evaluation":
            return _evaluation_of(self)
        return super().__getattr__(name)  # type: ignore[misc]


# The operator of each network, with what it was made of.
_kept: weakref.WeakKeyDictionary[nn.Cell, tuple[object, Evaluation]] = weakref.WeakKeyDictionary()


def _evaluation_of(network: NativeNetwork) -> Evaluation | None:
    """Return the operator that evaluates a network; None if a part has to be called by itself."""
    for _, cell in network.cells_and_names():
        if cell.training or has_hooks(cell) or is_mixed_precision(cell):
            return None
    program = Program()
    try:
        result = network.emit(program, program.images)
    except NotCovered:
        return None
    found = (program.steps, [id(parameter) for parameter in program.parameters], result)
    if network not in _kept or _kept[network][0] != found:
        _kept[network] = found, Evaluation(network.operator.library, program, result)
    return _kept[network][1]
