"""GhostNetV2 1.0, 1.3 and 1.6: GhostNet with attention along rows and columns.

Paper: Tang et al., "GhostNetV2: Enhance Cheap Operation with Long-Range Attention", NeurIPS 2022
(arXiv 2211.12905).

Reproduced: the authors' ``ghostnetv2_torch.py`` and timm's ``ghostnetv2_*``, which agree. The DFC
attention weights what the first Ghost module of every bottleneck puts out, but for the first two
bottlenecks.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn

from mindcv_ghost.layers import DFCAttention, GhostModule
from mindcv_ghost.models.ghostnet_frame import (
    GhostNetFrame,
    depthwise,
    shortcut,
    squeeze_excite,
)
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["STAGES", "AttentionGhostModule", "GhostNetV2", "GhostV2Bottleneck"]

# GhostNet's, at width 1.
STAGES = (
    # kernel, expanded channels, channels put out, squeeze-excite ratio, stride
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

# Bottlenecks before it, counted from 0, have no attention (as in the authors' file).
FIRST_ATTENTION = 2

WIDTHS = {
    "ghostnetv2_100": 1.0,
    "ghostnetv2_130": 1.3,
    "ghostnetv2_160": 1.6,
}

default_cfgs = {
    name: {"url": "", "num_classes": 1000, "first_conv": "conv_stem", "classifier": "classifier"}
    for name in WIDTHS
}


class AttentionGhostModule(nn.Cell):
    """A Ghost module whose maps are weighted by DFC attention.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.

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


class GhostV2Bottleneck(nn.Cell):
    """Ghost module, depthwise convolution where it strides, squeeze-excite, Ghost module, shortcut.

    Args:
        number: of the bottleneck in the network, from 0; decides on the attention.
        in_channels: maps that come in.
        expanded: maps between the Ghost modules.
        out_channels: maps that go out.
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

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        if self.conv_dw is not None:
            y = self.bn_dw(self.conv_dw(y))
        if self.se is not None:
            y = self.se(y)
        y = self.ghost2(y)
        return y + (x if self.shortcut is None else self.shortcut(x))


class GhostNetV2(GhostNetFrame):
    """GhostNet with DFC attention.

    Args:
        width: factor of the channels.
        num_classes: outputs of the classifier; 0 for none (the hidden layer's features go out).
        in_channels: channels of the images.
        drop_rate: dropout before the classifier.

    Inputs:
        Images of shape (N, in_channels, H, W), of 33 pixels and more a side (attention halves the
        smallest maps).

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; the authors' ``ghostnetv2_torch.py``.
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
    ) -> None:
        arguments = {"width": width, "in_channels": in_channels, "drop_rate": drop_rate}
        super().__init__(
            STAGES,
            GhostV2Bottleneck,
            last_expansion=1,
            num_classes=num_classes,
            arguments=arguments,
            **arguments,
        )


def _create(
    name: str, pretrained: bool, num_classes: int, in_channels: int, **kwargs: Any
) -> nn.Cell:
    """Build one width; MindCV's builder adds ``features_only`` and ``out_indices``."""
    if pretrained:
        require_weights(name, default_cfgs[name])
    return build_model_with_cfg(
        GhostNetV2,
        pretrained,
        default_cfgs[name],
        width=WIDTHS[name],
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )


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
