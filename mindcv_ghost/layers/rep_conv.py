"""A re-parameterised convolution: trained as parallel branches, deployed as one convolution."""

from __future__ import annotations

from typing import Callable

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.layers.conv_norm_act import ConvNormAct
from mindcv_ghost.layers.folding import fold_batch_norm, identity_kernel, pad_kernel

__all__ = ["RepConv"]


class RepConv(nn.Cell):
    """Sum of convolution-BN branches, then an activation; in deploy form one convolution.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: of the branches, odd.
        stride: of every branch.
        groups: groups of every branch.
        branches: number of convolution-BN branches with the full kernel.
        scale: add a branch of a 1x1 convolution and BN.
        skip: add a branch of BN only; ``groups``, ``in_channels`` and ``out_channels`` must then be
            equal, and ``stride`` 1.
        act: class or function that makes the activation, such as ``nn.ReLU``; None for none.
        deploy: build the deploy form: ``conv``, with a bias, instead of the branches.

    Inputs:
        Tensor of shape (N, in_channels, H, W).

    Outputs:
        Tensor of shape (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: if ``skip`` is True and the convolution isn't depthwise with stride 1.

    Source: Ding et al., "RepVGG" (arXiv 2101.03697), section 3; the branches are those of
    GhostNetV3 (arXiv 2404.11202) and RepGhost (arXiv 2211.06088).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        branches: int = 3,
        scale: bool = False,
        skip: bool = False,
        act: Callable[[], nn.Cell] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        if skip and not (in_channels == out_channels == groups and stride == 1):
            raise ValueError(
                f"skip needs a depthwise convolution of stride 1, not {in_channels} maps to "
                f"{out_channels} in {groups} groups at stride {stride}"
            )
        self.kernel_size = kernel_size
        self.deployed = deploy
        self.scale = self.skip = None
        if deploy:
            self.conv = nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                pad_mode="pad",
                padding=kernel_size // 2,
                group=groups,
                has_bias=True,
            )
        else:
            self.branches = nn.CellList(
                [
                    ConvNormAct(in_channels, out_channels, kernel_size, stride, groups)
                    for _ in range(branches)
                ]
            )
            if scale:
                self.scale = ConvNormAct(in_channels, out_channels, 1, stride, groups)
            if skip:
                self.skip = nn.BatchNorm2d(out_channels)
        self.act = None if act is None else act()

    def construct(self, x: Tensor) -> Tensor:
        if self.deployed:
            y = self.conv(x)
        else:
            y = self.branches[0](x)
            # Not by a slice: that is a new CellList, which renames its cells' parameters.
            for index in range(1, len(self.branches)):
                y = y + self.branches[index](x)
            if self.scale is not None:
                y = y + self.scale(x)
            if self.skip is not None:
                y = y + self.skip(x)
        return y if self.act is None else self.act(y)

    def fused(self) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel and bias (float32) of the equivalent convolution in evaluation.

        Raises:
            ValueError: if this is the deploy form already.
        """
        if self.deployed:
            raise ValueError("this convolution is in deploy form already")
        parts = [_folded(branch.conv.weight.asnumpy(), branch.bn) for branch in self.branches]
        if self.scale is not None:
            parts.append(_folded(self.scale.conv.weight.asnumpy(), self.scale.bn))
        if self.skip is not None:
            parts.append(_folded(identity_kernel(self.skip.num_features), self.skip))
        kernel, bias = np.zeros(()), np.zeros(())
        for part_kernel, part_bias in parts:
            kernel = kernel + pad_kernel(part_kernel, self.kernel_size)
            bias = bias + part_bias
        return kernel.astype(np.float32), bias.astype(np.float32)


def _folded(kernel: np.ndarray, bn: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    return fold_batch_norm(
        kernel,
        bn.gamma.asnumpy(),
        bn.beta.asnumpy(),
        bn.moving_mean.asnumpy(),
        bn.moving_variance.asnumpy(),
        bn.eps,
    )
