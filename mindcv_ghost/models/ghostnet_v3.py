"""GhostNetV3 0.5, 1.0, 1.3 and 1.6: GhostNetV2 trained with parallel branches.

Paper: Liu et al., "GhostNetV3: Exploring the Training Strategies for Compact Models" (arXiv
2404.11202).

Reproduced: the authors' ``ghostnetv3.py`` and timm's ``ghostnetv3_*``, which agree: three branches
for every convolution of a Ghost module and for the strided depthwise ones, with a 1x1 branch on the
depthwise ones and a BN alone on the cheap ones. The deploy form (``deploy=True``, or
``mindcv_ghost.surgery.deploy``) has one convolution with a bias for each, and GhostNetV2's
operations.

Not here: the paper's training by distillation; its recipe is a plain one.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn, ops

from mindcv_ghost.layers import DFCAttention, RepConv
from mindcv_ghost.models.ghostnet_frame import GhostNetFrame, shortcut, squeeze_excite
from mindcv_ghost.models.ghostnet_v2 import FIRST_ATTENTION, STAGES
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["GhostNetV3", "GhostV3Bottleneck", "GhostV3Module"]

BRANCHES = 3

WIDTHS = {
    "ghostnetv3_050": 0.5,
    "ghostnetv3_100": 1.0,
    "ghostnetv3_130": 1.3,
    "ghostnetv3_160": 1.6,
}

default_cfgs = {
    name: {"url": "", "num_classes": 1000, "first_conv": "conv_stem", "classifier": "classifier"}
    for name in WIDTHS
}


class GhostV3Module(nn.Cell):
    """A Ghost module of ratio 2 whose two convolutions are re-parameterised.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out, an even number.
        act: follow both branches by a ReLU.
        attention: weight the maps by DFC attention.
        deploy: build the deploy form.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, H, W).

    Source: paper; the authors' ``ghostnetv3.py``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, act: bool, attention: bool, deploy: bool
    ) -> None:
        super().__init__()
        intrinsic = out_channels // 2
        options = {"branches": BRANCHES, "act": nn.ReLU if act else None, "deploy": deploy}
        self.primary = RepConv(in_channels, intrinsic, 1, **options)
        self.cheap = RepConv(
            intrinsic, intrinsic, 3, groups=intrinsic, scale=True, skip=True, **options
        )
        self.attention = DFCAttention(in_channels, out_channels) if attention else None

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost(x)
        return y if self.attention is None else y * self.attention(x, y)

    def ghost(self, x: Tensor) -> Tensor:
        """The maps of both branches, before attention: (N, out_channels, H, W)."""
        y = self.primary(x)
        return ops.concat((y, self.cheap(y)), axis=1)


class GhostV3Bottleneck(nn.Cell):
    """GhostNetV2's bottleneck with re-parameterised convolutions.

    Args:
        number: of the bottleneck in the network, from 0; decides on the attention.
        in_channels: maps that come in.
        expanded: maps between the Ghost modules.
        out_channels: maps that go out.
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
        deploy: bool,
    ) -> None:
        super().__init__()
        attention = number >= FIRST_ATTENTION
        self.ghost1 = GhostV3Module(in_channels, expanded, True, attention, deploy)
        self.conv_dw = None
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

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        if self.conv_dw is not None:
            y = self.conv_dw(y)
        if self.se is not None:
            y = self.se(y)
        y = self.ghost2(y)
        return y + (x if self.shortcut is None else self.shortcut(x))


class GhostNetV3(GhostNetFrame):
    """GhostNetV2 with re-parameterised convolutions.

    Args:
        width: factor of the channels.
        num_classes: outputs of the classifier; 0 for none (the hidden layer's features go out).
        in_channels: channels of the images.
        drop_rate: dropout before the classifier.
        deploy: build the deploy form, for weights that ``mindcv_ghost.surgery.deploy`` made.

    Inputs:
        Images of shape (N, in_channels, H, W), of 33 pixels and more a side (attention halves the
        smallest maps).

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; the authors' ``ghostnetv3.py``.
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        deploy: bool = False,
    ) -> None:
        def block(*shape: float) -> nn.Cell:
            return GhostV3Bottleneck(*shape, deploy=deploy)

        arguments = {"width": width, "in_channels": in_channels, "drop_rate": drop_rate}
        super().__init__(
            STAGES,
            block,
            last_expansion=1,
            num_classes=num_classes,
            arguments={**arguments, "deploy": deploy},
            **arguments,
        )


def _create(
    name: str, pretrained: bool, num_classes: int, in_channels: int, **kwargs: Any
) -> nn.Cell:
    """Build one width; MindCV's builder adds ``features_only`` and ``out_indices``."""
    if pretrained:
        require_weights(name, default_cfgs[name])
    return build_model_with_cfg(
        GhostNetV3,
        pretrained,
        default_cfgs[name],
        width=WIDTHS[name],
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )


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
