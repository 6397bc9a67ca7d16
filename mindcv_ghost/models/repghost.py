"""RepGhostNet in eight widths from 0.5 to 2.0: ghost maps are added, not concatenated.

Paper: Chen et al., "RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization" (arXiv
2211.06088).

Reproduced: timm's ``repghostnet_*``, which has the authors' weights. The first module of a
bottleneck has about half of the channels that GhostNet's has. A module adds the outputs of the
cheap operation and of a branch that is BN alone. The deploy form (``deploy=True``, or
``mindcv_ghost.surgery.deploy``) merges both into one depthwise convolution.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mindspore import Tensor, nn

from mindcv_ghost.layers import ConvNormAct, RepConv
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
__all__ = ["RepGhostBottleneck", "RepGhostModule", "RepGhostNet"]

STAGES: tuple[Stage, ...] = (
    # kernel size, expanded channels, output channels, squeeze-and-excitation ratio, stride
    ((3, 8, 16, 0, 1),),
    ((3, 24, 24, 0, 2),),
    ((3, 36, 24, 0, 1),),
    ((5, 36, 40, 0.25, 2),),
    ((5, 60, 40, 0.25, 1),),
    ((3, 120, 80, 0, 2),),
    (
        (3, 100, 80, 0, 1),
        (3, 120, 80, 0, 1),
        (3, 120, 80, 0, 1),
        (3, 240, 112, 0.25, 1),
        (3, 336, 112, 0.25, 1),
    ),
    ((5, 336, 160, 0.25, 2),),
    (
        (5, 480, 160, 0, 1),
        (5, 480, 160, 0.25, 1),
        (5, 480, 160, 0, 1),
        (5, 480, 160, 0.25, 1),
    ),
)

VARIANTS: dict[str, dict[str, Any]] = {
    "repghostnet_050": {"width": 0.5},
    "repghostnet_058": {"width": 0.58},
    "repghostnet_080": {"width": 0.8},
    "repghostnet_100": {"width": 1.0},
    "repghostnet_111": {"width": 1.11},
    "repghostnet_130": {"width": 1.3},
    "repghostnet_150": {"width": 1.5},
    "repghostnet_200": {"width": 2.0},
}

default_cfgs = {name: default_cfg(first_conv="conv_stem") for name in VARIANTS}


class RepGhostModule(nn.Cell):
    """A 1x1 convolution, then a depthwise 3x3 convolution whose input is added to its output.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        act: add a ReLU after each of the two convolutions.
        deploy: build the deploy form.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, H, W).

    Source: paper; timm's ``repghost.py``.
    """

    def __init__(self, in_channels: int, out_channels: int, act: bool, deploy: bool) -> None:
        super().__init__()
        make_act = nn.ReLU if act else None
        self.primary = ConvNormAct(in_channels, out_channels, 1, act=make_act)
        self.cheap = RepConv(
            out_channels,
            out_channels,
            3,
            groups=out_channels,
            branches=1,
            skip=True,
            act=make_act,
            deploy=deploy,
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.cheap(self.primary(x))


class RepGhostBottleneck(Bottleneck):
    """GhostNet's bottleneck with RepGhost modules.

    Args:
        number: index of the bottleneck in the network; not used.
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
        self.ghost1 = RepGhostModule(in_channels, expanded, True, deploy)
        self.conv_dw = self.bn_dw = None
        if stride > 1:
            self.conv_dw = depthwise(expanded, kernel_size, stride)
            self.bn_dw = nn.BatchNorm2d(expanded)
        self.se = squeeze_excite(expanded, se_ratio)
        self.ghost2 = RepGhostModule(expanded, out_channels, False, deploy)
        self.shortcut = shortcut(in_channels, out_channels, kernel_size, stride)


class RepGhostNet(GhostNetFrame):
    """GhostNet's frame with RepGhost modules.

    Args:
        width: factor for the channel counts.
        num_classes: outputs of the classifier; 0 for none (returns the hidden layer's features).
        in_channels: channels of the images.
        drop_rate: dropout probability before the classifier.
        deploy: build the deploy form, for weights made by ``mindcv_ghost.surgery.deploy``.

    Inputs:
        Images of shape (N, in_channels, H, W) and any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; timm's ``repghost.py``.
    """

    stages = STAGES
    bottleneck = RepGhostBottleneck
    last_expansion = 2


_create = partial(create_variant, RepGhostNet, VARIANTS, default_cfgs)


@register_model
def repghostnet_050(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 0.5x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_050", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_058(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 0.58x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_058", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_080(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 0.8x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_080", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_100(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 1x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_100", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_111(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 1.11x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_111", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_130(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 1.3x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_130", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_150(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 1.5x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_150", pretrained, num_classes, in_channels, **kwargs)


@register_model
def repghostnet_200(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """RepGhostNet 2x; options: :class:`RepGhostNet`."""
    return _create("repghostnet_200", pretrained, num_classes, in_channels, **kwargs)
