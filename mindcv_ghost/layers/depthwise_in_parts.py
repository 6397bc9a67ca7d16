"""Depthwise convolutions with several outputs per channel, computed as several with one output."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindcv_ghost.layers.accelerated import refuse_accelerated

__all__ = ["FEWEST_PARTS", "DepthwiseInParts", "compute_in_parts"]

FEWEST_PARTS = 3
"""Least number of outputs per channel for which a convolution is computed in parts.

MindSpore 2.8 says that on Ascend a grouped convolution "must" have as many input and output
channels as groups (``nn/layer/conv.py``), but never checks it. MindCV publishes accuracies from
Ascend 910 of networks that don't: RegNet and ResNeXt (wider groups), ShuffleNetV1 (different
numbers of input and output channels), PiT (two outputs per channel). No trained network with three
or more was found.
"""


class DepthwiseInParts(nn.Conv2d):
    """A depthwise convolution with ``n`` outputs per channel, as ``n`` convolutions with one.

    Parameters and outputs are those of the ``nn.Conv2d`` whose class was exchanged for this one.

    Inputs: (N, in_channels, H, W). Outputs: (N, in_channels * n, H', W').
    """

    def construct(self, x: Tensor) -> Tensor:
        # Output channels 0 ... n - 1 come from the first input channel, the next n from the second.
        height, width = self.kernel_size
        weight = self.weight.reshape(self.in_channels, -1, 1, height, width)
        parts: tuple[Tensor, ...] = ()
        for n in range(self.out_channels // self.in_channels):
            parts += (self.part(x, weight[:, n]),)
        maps = ops.stack(parts, 2)
        maps = maps.reshape(maps.shape[0], self.out_channels, maps.shape[3], maps.shape[4])
        return self.bias_add(maps, self.bias) if self.has_bias else maps


def compute_in_parts(network: nn.Cell) -> int:
    """Compute depthwise convolutions with at least ``FEWEST_PARTS`` outputs per channel in parts.

    Args:
        network: changed in place, before it is compiled; its parameters stay the same.

    Returns:
        The number of changed convolutions.

    Raises:
        UserError: if the network is accelerated.
    """
    refuse_accelerated(network, "compute_in_parts")
    changed = 0
    for _, cell in network.cells_and_names():
        if type(cell) is not nn.Conv2d or cell.group != cell.in_channels or cell.group == 1:
            continue
        if cell.out_channels < FEWEST_PARTS * cell.in_channels:
            continue
        cell.part = ops.Conv2D(
            out_channel=cell.in_channels,
            kernel_size=cell.kernel_size,
            pad_mode=cell.pad_mode,
            pad=cell.padding,
            stride=cell.stride,
            dilation=cell.dilation,
            group=cell.group,
            data_format=cell.data_format,
        )
        cell.__class__ = DepthwiseInParts
        changed += 1
    return changed
