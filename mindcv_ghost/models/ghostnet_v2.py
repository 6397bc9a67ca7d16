"""GhostNetV2 1.0, 1.3 and 1.6: GhostNet with attention along rows and columns.

Paper: Tang et al., "GhostNetV2: Enhance Cheap Operation with Long-Range Attention", NeurIPS 2022
(arXiv 2211.12905).

Reproduced: the authors' ``ghostnetv2_torch.py`` and timm's ``ghostnetv2_*``, which agree. DFC
attention multiplies the output of the first Ghost module in every bottleneck except the first two.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mindspore import Tensor, nn

from mindcv_ghost.layers import DFCAttention, GhostModule
from mindcv_ghost.models.factory import create_variant, default_cfg
from mindcv_ghost.models.ghostnet_frame import (
    Bottleneck,
    GhostNetFrame,
    Stage,
    depthwise,
    shortcut,
    squeeze_excite,
)
from mindcv_ghost.registry import register_model

# MindCV's `register_model` appends the entry points.
__all__ = ["STAGES", "AttentionGhostModule", "GhostNetV2", "GhostV2Bottleneck"]

# GhostNet's, at width 1.
STAGES: tuple[Stage, ...] = (
    # kernel size, expanded channels, output channels, squeeze-and-excitation ratio, stride
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2),),
    ((3, 72, 24, 0, 1),),
    ((5, 72, 40, 0.25, 2),),
    ((5, 120, 40, 0.25, 1),),
    ((3, 240, 80, 0, 2),),
    (
        (3, 200, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 480, 112, 0.25, 1),
        (3, 672, 112, 0.25, 1),
    ),
    ((5, 672, 160, 0.25, 2),),
    (
        (5, 960, 160, 0, 1),
        (5, 960, 160, 0.25, 1),
        (5, 960, 160, 0, 1),
        (5, 960, 160, 0.25, 1),
    ),
)

# Index of the first bottleneck with attention, from 0 (as in the authors' file).
FIRST_ATTENTION = 2

VARIANTS: dict[str, dict[str, Any]] = {
    "ghostnetv2_100": {"width": 1.0},
    "ghostnetv2_130": {"width": 1.3},
    "ghostnetv2_160": {"width": 1.6},
}

default_cfgs = {name: default_cfg(first_conv="conv_stem") for name in VARIANTS}


class AttentionGhostModule(nn.Cell):
    """A Ghost module whose output is multiplied by DFC attention.

    Args:
        in_channels: input channels.
        out_channels: output channels.

    Inputs: (N, in_channels, H, W), H and W at least 2. Outputs: (N, out_channels, H, W).

    Source: the authors' ``GhostModuleV2``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.ghost = GhostModule(in_channels, out_channels)
        self.attention = DFCAttention(in_channels, out_channels)

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost(x)
        return y * self.attention(x, y)


class GhostV2Bottleneck(Bottleneck):
    """GhostNet's bottleneck, with attention on its first Ghost module.

    Args:
        number: index of the bottleneck in the network, from 0; attention starts at
            ``FIRST_ATTENTION``.
        in_channels: input channels.
        expanded: channels between the Ghost modules.
        out_channels: output channels.
        kernel_size: of the depthwise convolutions.
        stride: 1 or 2.
        se_ratio: squeezed share of ``expanded``; 0 for no squeeze-and-excitation.

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
    ) -> None:
        super().__init__()
        module = AttentionGhostModule if number >= FIRST_ATTENTION else GhostModule
        self.ghost1 = module(in_channels, expanded)
        self.conv_dw = self.bn_dw = None
        if stride > 1:
            self.conv_dw = depthwise(expanded, kernel_size, stride)
            self.bn_dw = nn.BatchNorm2d(expanded)
        self.se = squeeze_excite(expanded, se_ratio)
        self.ghost2 = GhostModule(expanded, out_channels, act=False)
        self.shortcut = shortcut(in_channels, out_channels, kernel_size, stride)


class GhostNetV2(GhostNetFrame):
    """GhostNet with DFC attention.

    Args:
        width: factor for the channel counts.
        num_classes: outputs of the classifier; 0 for none (returns the hidden layer's features).
        in_channels: channels of the images.
        drop_rate: dropout probability before the classifier.

    Inputs:
        Images of shape (N, in_channels, H, W) with H and W at least 33: attention halves the
        smallest maps.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; the authors' ``ghostnetv2_torch.py``.
    """

    stages = STAGES
    bottleneck = GhostV2Bottleneck


_create = partial(create_variant, GhostNetV2, VARIANTS, default_cfgs)


@register_model
def ghostnetv2_100(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV2 1.0x; options: :class:`GhostNetV2`."""
    return _create("ghostnetv2_100", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghostnetv2_130(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV2 1.3x; options: :class:`GhostNetV2`."""
    return _create("ghostnetv2_130", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghostnetv2_160(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """GhostNetV2 1.6x; options: :class:`GhostNetV2`."""
    return _create("ghostnetv2_160", pretrained, num_classes, in_channels, **kwargs)
