"""Evaluation of a whole network as one operator.

The operator's program is made of the cells as they are when MindSpore compiles the network. Its
parameters are inputs of the operator, so that each call reads their present values. Where a cell
has no steps, or has to be called by itself, the network stays one operator a layer.
"""

from __future__ import annotations

import weakref
from dataclasses import astuple, dataclass
from typing import Any

from mindspore import Parameter, ParameterTuple, nn

from mindcv_ghost.kernels.custom_op import custom_operator, settings_tensor
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell, has_hooks, is_mixed_precision
from mindcv_ghost.kernels.program import NotCovered, Program

__all__ = ["Evaluation", "NativeNetwork", "Steps"]


@dataclass(frozen=True)
class Steps:
    """What an operator computes of a network.

    Args:
        operator: that reads the numbers.
        numbers: the steps.
        parameters: of the network, as the steps number them.
        channels: of the output.
        reduction: by which its height and width are smaller than the images', rounded up; 0 for an
            output of shape (N, channels).
    """

    operator: str
    numbers: tuple[float, ...]
    parameters: tuple[Parameter, ...]
    channels: int
    reduction: int = 0

    def key(self) -> tuple[object, ...]:
        """What has to be equal for an operator to be used again."""
        rest = (self.operator, self.numbers, self.channels, self.reduction)
        return (*rest, *map(id, self.parameters))


class Evaluation(nn.Cell):
    """A network as an operator.

    Args:
        library: that has the operators.
        steps: what it computes.

    Inputs: images (N, C, H, W).
    Outputs: what the last step computes.
    """

    def __init__(self, library: Library, steps: Steps) -> None:
        super().__init__(auto_prefix=False)
        self.steps = settings_tensor(*steps.numbers)
        self.parameters = ParameterTuple(steps.parameters)
        channels, reduction = steps.channels, steps.reduction

        def shape(_, x, *others):
            if reduction == 0:
                return [x[0], channels]
            return [x[0], channels, *(-(-side // reduction) for side in x[2:])]

        constants = [channels, reduction]
        self.forward = custom_operator(library, steps.operator, shape, 1, constants)

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

    def write_steps(self) -> Steps:
        """Write what evaluates the network as its cells are now.

        Raises:
            NotCovered: if a cell has no steps.
        """
        program = Program()
        result = self.emit(program, program.images)
        numbers = tuple(float(number) for step in program.steps for number in astuple(step))
        parameters = tuple(program.parameters)
        return Steps("ghost_program", numbers, parameters, result.channels, result.reduction)


# The operator of each network, with what it was made of.
_kept: weakref.WeakKeyDictionary[nn.Cell, tuple[object, Evaluation]] = weakref.WeakKeyDictionary()


def _evaluation_of(network: NativeNetwork) -> Evaluation | None:
    """Return the operator that evaluates a network; None if a part has to be called by itself."""
    for _, cell in network.cells_and_names():
        if cell.training or has_hooks(cell) or is_mixed_precision(cell):
            return None
    try:
        steps = network.write_steps()
    except NotCovered:
        return None
    if network not in _kept or _kept[network][0] != steps.key():
        _kept[network] = steps.key(), Evaluation(network.operator.library, steps)
    return _kept[network][1]
