"""Depthwise convolutions that make several maps of each, computed as several that make one."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

__all__ = ["FEWEST_PARTS", "DepthwiseInParts", "compute_in_parts"]

FEWEST_PARTS = 3
"""Maps made of each from which on a convolution is computed in parts.

MindSpore 2.8 says that on Ascend a convolution in groups "must" have as many maps in and out as it
has groups (``nn/layer/conv.py``), but checks it nowhere. MindCV publishes accuracies from Ascend
910 of networks that differ: RegNet and ResNeXt (wider groups), ShuffleNetV1 (other numbers in and
out), PiT (two maps of each). Of three and more no trained network was found.
"""


class DepthwiseInParts(nn.Conv2d):
    """A depthwise convolution with ``n`` maps out of each, as ``n`` with one, from one weight.

    Its parameters and outputs are those of the ``nn.Conv2d`` that it was.

    Inputs: (N, in_channels, H, W). Outputs: (N, in_channels * n, H', W').
    """

    def construct(self, x: Tensor) -> Tensor:
        # Maps (0, 1, ..., n - 1) come from the first that goes in, the next n from the second.
        height, width = self.kernel_size
        weight = self.weight.reshape(self.in_channels, -1, 1, height, width)
        parts: tuple[Tensor, ...] = ()
        for n in range(self.out_channels // self.in_channels):
            parts += (self.part(x, weight[:, n]),)
        maps = ops.stack(parts, 2)
        maps = maps.reshape(maps.shape[0], self.out_channels, maps.shape[3], maps.shape[4])
        return self.bias_add(maps, self.bias) if self.has_bias else maps


def compute_in_parts(network: nn.Cell) -> int:
    """Have a network's depthwise convolutions of ``FEWEST_PARTS`` maps and more computed in parts.

    Args:
        network: changed in place, before it is compiled; its parameters stay what they are.

    Returns:
        How many were changed.
    """
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
