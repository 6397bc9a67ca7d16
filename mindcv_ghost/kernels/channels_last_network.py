"""Networks that are evaluated as one operator on channels-last maps."""

from __future__ import annotations

from mindcv.models.ghostnet import GhostNet
from mindspore import nn

from mindcv_ghost.kernels.channels_last import write_program
from mindcv_ghost.kernels.evaluation import NativeNetwork, Steps
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.models.ghostnet_v2 import GhostNetV2
from mindcv_ghost.models.ghostnet_v3 import GhostNetV3
from mindcv_ghost.models.repghost import RepGhostNet

__all__ = ["NativeGhostNet", "NativeGhostNetV2", "NativeGhostNetV3", "NativeRepGhostNet"]


class _Library(nn.Cell):
    """Keeps the library for the operator that is made when a network is compiled."""

    def __init__(self, library: Library) -> None:
        super().__init__(auto_prefix=False)
        self.library = library


class _ChannelsLastNetwork(NativeNetwork):
    """A network that is one operator in evaluation, if all its layers have steps."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return True

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return _Library(library)

    def write_steps(self) -> Steps:
        """Write what evaluates the network; see :func:`write_program`."""
        program = write_program(self)
        numbers, parameters = tuple(program.numbers), tuple(program.parameters)
        return Steps("ghost_channels_last", numbers, parameters, program.classes)

    def construct(self, x):
        if not self.training and self.evaluation is not None:
            return self.evaluation(x)
        return self.forward_head(self.forward_features(x))


class NativeGhostNet(_ChannelsLastNetwork, GhostNet):
    """MindCV's ``GhostNet``."""


class NativeGhostNetV2(_ChannelsLastNetwork, GhostNetV2):
    """A ``GhostNetV2``."""


class NativeGhostNetV3(_ChannelsLastNetwork, GhostNetV3):
    """A ``GhostNetV3``, in training and in deploy form."""


class NativeRepGhostNet(_ChannelsLastNetwork, RepGhostNet):
    """A ``RepGhostNet``, in training and in deploy form."""
