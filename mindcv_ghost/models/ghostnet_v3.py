"""GhostNetV3 0.5, 1.0, 1.3 and 1.6: GhostNetV2 trained with parallel branches.

Paper: Liu et al., "GhostNetV3: Exploring the Training Strategies for Compact Models" (arXiv
2404.11202).

Reproduced: the authors' ``ghostnetv3.py`` and timm's ``ghostnetv3_*``, which agree: three branches
for every convolution of a Ghost module and for the strided depthwise ones, with a 1x1 branch on the
depthwise ones and a BN alone on the cheap ones. The deploy form (``deploy=True``, or
``mindcv_ghost.surgery.deploy``) has one convolution with a bias in place of each set of branches,
and as many operations as GhostNetV2.

Not included: the paper's teacher, BEiT v2, and its distillation loss, which the authors'
``train.py`` imports and which was never published. The recipes here train without a teacher.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mindspore import Tensor, nn, ops

from mindcv_ghost.layers import DFCAttention, RepConv
from mindcv_ghost.models.factory import create_variant, default_cfg
from mindcv_ghost.models.ghostnet_frame import (
    Bottleneck,
    GhostNetFrame,
    shortcut,
    squeeze_excite,
)
from mindcv_ghost.models.ghostnet_v2 import FIRST_ATTENTION, STAGES
from mindcv_ghost.registry import register_model

# MindCV's `register_model` appends the entry points.
__all__ = ["GhostNetV3", "GhostV3Bottleneck", "GhostV3Module"]

BRANCHES = 3

VARIANTS: dict[str, dict[str, Any]] = {
    "ghostnetv3_050": {"width": 0.5},
    "ghostnetv3_100": {"width": 1.0},
    "ghostnetv3_130": {"width": 1.3},
    "ghostnetv3_160": {"width": 1.6},
}

default_cfgs = {name: default_cfg(first_conv="conv_stem") for name in VARIANTS}


class GhostV3Module(nn.Cell):
    """A Ghost module of ratio 2 whose two convolutions are re-parameterised.

    Args:
        in_channels: input channels.
        out_channels: output channels, an even number.
        act: add a ReLU after each of the two branches.
        attention: multiply the maps by DFC attention.
        deploy: build the deploy form.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, H, W).

    Source: paper; the authors' ``ghostnetv3.py``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, act: bool, attention: bool, deploy: bool
    ) -> None:
        super().__init__()
        intrinsic = out_channels // 2
        make_act = nn.ReLU if act else None
        conv = partial(RepConv, branches=BRANCHES, act=make_act, deploy=deploy)
        self.primary = conv(in_channels, intrinsic, 1)
        self.cheap = conv(intrinsic, intrinsic, 3, groups=intrinsic, scale=True, skip=True)
        self.attention = DFCAttention(in_channels, out_channels) if attention else None

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost(x)
        return y if self.attention is None else y * self.attention(x, y)

    def ghost(self, x: Tensor) -> Tensor:
        """The maps of both branches, before attention: (N, out_channels, H, W)."""
        y = self.primary(x)
        return ops.concat((y, self.cheap(y)), axis=1)


class GhostV3Bottleneck(Bottleneck):
    """GhostNetV2's bottleneck with re-parameterised convolutions.

    Args:
        number: index of the bottleneck in the network, from 0; attention starts at
            ``FIRST_ATTENTION``.
        in_channels: input channels.
        expanded: channels between the Ghost modules.
        out_channels: output channels.
        kernel_size: of the depthwise convolutions.
        stride: 1 or 2.
        se_ratio: squeezed share of ``expanded``; 0 for no squeeze-and-excitation.
        deploy: build the deploy form.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        number: int,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        se_ratio: float,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        attention = number >= FIRST_ATTENTION
        self.ghost1 = GhostV3Module(in_channels, expanded, True, attention, deploy)
        self.conv_dw = self.bn_dw = None
        if stride > 1:
            self.conv_dw = RepConv(
                expanded,
                expanded,
                kernel_size,
                stride,
                groups=expanded,
                branches=BRANCHES,
                scale=True,
                deploy=deploy,
            )
        self.se = squeeze_excite(expanded, se_ratio)
        self.ghost2 = GhostV3Module(expanded, out_channels, False, False, deploy)
        self.shortcut = shortcut(in_channels, out_channels, kernel_size, stride)


class GhostNetV3(GhostNetFrame):
    """GhostNetV2 with re-parameterised convolutions.

    Args:
        width: factor for the channel counts.
        num_classes: outputs of the classifier; 0 for none (returns the hidden layer's features).
        in_channels: channels of the images.
        drop_rate: dropout probability before the classifier.
        deploy: build the deploy form, for weights made by ``mindcv_ghost.surgery.deploy``.

    Inputs:
        Images of shape (N, in_channels, H, W) with H and W at least 33: attention halves the
        smallest maps.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; the authors' ``ghostnetv3.py``.
    """

    stages = STAGES
    bottleneck = GhostV3Bottleneck


_create = partial(create_variant, GhostNetV3, VARIANTS, default_cfgs)


@register_model
def ghostnetv3_050(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV3 0.5x; options: :class:`GhostNetV3`."""
    return _create("ghostnetv3_050", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghostnetv3_100(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV3 1.0x; options: :class:`GhostNetV3`."""
    return _create("ghostnetv3_100", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghostnetv3_130(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV3 1.3x; options: :class:`GhostNetV3`."""
    return _create("ghostnetv3_130", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghostnetv3_160(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV3 1.6x; options: :class:`GhostNetV3`."""
    return _create("ghostnetv3_160", pretrained, num_classes, in_channels, **kwargs)
