"""Evaluation of a whole network as one operator.

The operator's program is made of the cells as they are when MindSpore compiles the network. Its
parameters are inputs of the operator, so that each call reads their present values. Where a cell
has no steps, or has to be called by itself, the network stays one operator a layer.

A network that is called by itself, not as a part of another cell, needs nothing compiled: in graph
mode its call is the operator's (``direct_call``).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor, nn
from mindspore import dtype as mstype

from mindcv_ghost.compat import hook_version, in_graph_mode
from mindcv_ghost.kernels.custom_op import custom_operator, settings_tensor
from mindcv_ghost.kernels.direct_call import DirectCall
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

    def output_shape(self, images: Sequence[int]) -> tuple[int, ...]:
        """Return the output's shape for images of shape (N, C, H, W)."""
        if self.reduction == 0:
            return (images[0], self.channels)
        sides = (-(-side // self.reduction) for side in images[2:])
        return (images[0], self.channels, *sides)

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

        def shape(_, x, *others):
            return list(steps.output_shape(x))

        constants = [steps.channels, steps.reduction]
        self.forward = custom_operator(library, steps.operator, shape, 1, constants)
        self._direct = DirectCall(library, steps.operator, steps.numbers, steps.parameters)
        self._output_shape = steps.output_shape

    def construct(self, x):
        return self.forward(self.steps, x, *self.parameters)

    def call_directly(self, x: Tensor) -> Tensor | None:
        """Compute without MindSpore's executor; None if only it can tell what is wrong with x."""
        if x.ndim != 4 or x.dtype != mstype.float32:
            return None
        return self._direct(x, self._output_shape(x.shape))


class NativeNetwork(NativeCell):
    """A native cell that is evaluated as one operator wherever its cells allow it.

    Its operator has the attribute ``library``.
    """

    @staticmethod
    def skipped(cell: nn.Cell) -> Iterable[nn.Cell]:
        """None: whether the network is evaluated as one operator is found at each call."""
        return ()

    def __getattr__(self, name: str) -> Any:
        """Find ``evaluation``, the operator of the network as it is now, or None.

        MindSpore asks for it when it compiles ``construct``, and PyNative mode at each call.
        """
        if name == "evaluation":
            return _evaluation_of(self)
        return super().__getattr__(name)  # type: ignore[misc]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate images; see ``nn.Cell``."""
        evaluation = None if kwargs or len(args) != 1 else self._evaluation_now()
        if evaluation is not None and isinstance(args[0], Tensor):
            result = evaluation.call_directly(args[0])
            if result is not None:
                return result
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def add_flags(self, **flags: Any) -> nn.Cell:
        """Set flags, as ``set_train`` does."""
        if flags.get("training", self.training) != self.training:
            _called.pop(self, None)
        return super().add_flags(**flags)

    def _evaluation_now(self) -> Evaluation | None:
        """Return what a call computes, if nothing but the operator has to run.

        In graph mode MindSpore goes on with the cells as they were at the first call until a hook
        is registered or removed anywhere (see ``forget_graphs`` in ``install``). So it is here, and
        until ``set_train`` changes the mode: to look at all cells at each call takes 4 ms.
        """
        if self.training or not in_graph_mode():
            return None
        version, evaluation = _called.get(self, (None, None))
        if version != hook_version():
            version, evaluation = hook_version(), self.evaluation
            _called[self] = version, evaluation
        return evaluation

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


# What the calls of each network compute, with the version of hooks that it was found at.
_called: weakref.WeakKeyDictionary[nn.Cell, tuple[int, Evaluation | None]]
_called = weakref.WeakKeyDictionary()
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
