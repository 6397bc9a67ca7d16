"""Networks that are evaluated as one operator on channels-last maps."""

from __future__ import annotations

import weakref
from typing import Any

from mindcv.models.ghostnet import GhostNet
from mindspore import ParameterTuple, nn

from mindcv_ghost.kernels.channels_last import Program, write_program
from mindcv_ghost.kernels.custom_op import custom_operator, settings_tensor
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell, has_hooks, is_mixed_precision
from mindcv_ghost.kernels.program import NotCovered
from mindcv_ghost.models.ghostnet_v2 import GhostNetV2
from mindcv_ghost.models.ghostnet_v3 import GhostNetV3
from mindcv_ghost.models.repghost import RepGhostNet

__all__ = ["NativeGhostNet", "NativeGhostNetV2", "NativeGhostNetV3", "NativeRepGhostNet"]


class _Evaluation(nn.Cell):
    """A program as an operator.

    Inputs: images (N, C, H, W). Outputs: (N, classes).
    """

    def __init__(self, library: Library, program: Program) -> None:
        super().__init__(auto_prefix=False)
        self.program = settings_tensor(*program.numbers)
        self.parameters = ParameterTuple(program.parameters)
        classes = program.classes

        def shape(_, x, *others):
            return [x[0], classes]

        self.forward = custom_operator(library, "ghost_channels_last", shape, 1, [classes])

    def construct(self, x):
        return self.forward(self.program, x, *self.parameters)


class _Library(nn.Cell):
    """Keeps the library for operators that are made when a network is compiled."""

    def __init__(self, library: Library) -> None:
        super().__init__(auto_prefix=False)
        self.library = library


class _ChannelsLastNetwork(NativeCell):
    """A network that is one operator in evaluation, if all its layers have steps."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return True

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return _Library(library)

    def __getattr__(self, name: str) -> Any:
        """Find ``evaluation``, the operator of the network as it is now, or None.

        MindSpore asks for it when it compiles ``construct``, and PyNative mode at each call.
        """
        if name == "evaluation":
            return _evaluation_of(self)
        return super().__getattr__(name)  # type: ignore[misc]

    def construct(self, x):
        if not self.training and self.evaluation is not None:
            return self.evaluation(x)
        return self.forward_head(self.forward_features(x))


_kept: weakref.WeakKeyDictionary[nn.Cell, tuple[object, _Evaluation]] = weakref.WeakKeyDictionary()


def _evaluation_of(network: Any) -> _Evaluation | None:
    """Return the operator that evaluates a network; None if a part has to be called by itself."""
    for _, cell in network.cells_and_names():
        if cell.training or has_hooks(cell) or is_mixed_precision(cell):
            return None
    try:
        program = write_program(network)
    except NotCovered:
        return None
    found = (program.numbers, [id(parameter) for parameter in program.parameters])
    if network not in _kept or _kept[network][0] != found:
        _kept[network] = found, _Evaluation(network.operator.library, program)
    return _kept[network][1]


class NativeGhostNet(_ChannelsLastNetwork, GhostNet):
    """MindCV's ``GhostNet``."""


class NativeGhostNetV2(_ChannelsLastNetwork, GhostNetV2):
    """A ``GhostNetV2``."""


class NativeGhostNetV3(_ChannelsLastNetwork, GhostNetV3):
    """A ``GhostNetV3``, in training and in deploy form."""


class NativeRepGhostNet(_ChannelsLastNetwork, RepGhostNet):
    """A ``RepGhostNet``, in training and in deploy form."""
