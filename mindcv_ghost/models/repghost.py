"""RepGhostNet in eight widths from 0.5 to 2.0: ghosts that are added, not concatenated.

Paper: Chen et al., "RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization" (arXiv
2211.06088).

Reproduced: timm's ``repghostnet_*``, which has the authors' weights. A RepGhost module keeps half
the channels of a Ghost module and adds the cheap operation's maps, and those of a BN alone, to each
other; deployed (``deploy=True``, or ``mindcv_ghost.surgery.deploy``) both are one depthwise
convolution.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn

from mindcv_ghost.layers import ConvNormAct, RepConv
from mindcv_ghost.models.ghostnet_frame import (
    GhostNetFrame,
    depthwise,
    shortcut,
    squeeze_excite,
)
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["RepGhostBottleneck", "RepGhostModule", "RepGhostNet"]

STAGES = (
    # kernel, expanded channels, channels put out, squeeze-excite ratio, stride
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

WIDTHS = {
    "repghostnet_050": 0.5,
    "repghostnet_058": 0.58,
    "repghostnet_080": 0.8,
    "repghostnet_100": 1.0,
    "repghostnet_111": 1.11,
    "repghostnet_130": 1.3,
    "repghostnet_150": 1.5,
    "repghostnet_200": 2.0,
}

default_cfgs = {
    name: {"url": "", "num_classes": 1000, "first_conv": "conv_stem", "classifier": "classifier"}
    for name in WIDTHS
}


class RepGhostModule(nn.Cell):
    """A 1x1 convolution, and a depthwise 3x3 one whose input is added to its output.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        act: follow both by a ReLU.
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


class RepGhostBottleneck(nn.Cell):
    """RepGhost module, depthwise convolution where it strides, squeeze-excite, RepGhost module.

    Args:
        number: of the bottleneck in the network; not used.
        in_channels: maps that come in.
        expanded: maps between the modules.
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
        self.ghost1 = RepGhostModule(in_channels, expanded, True, deploy)
        self.conv_dw = self.bn_dw = None
        if stride > 1:
            self.conv_dw = depthwise(expanded, kernel_size, stride)
            self.bn_dw = nn.BatchNorm2d(expanded)
        self.se = squeeze_excite(expanded, se_ratio)
        self.ghost2 = RepGhostModule(expanded, out_channels, False, deploy)
        self.shortcut = shortcut(in_channels, out_channels, kernel_size, stride)

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        if self.conv_dw is not None:
            y = self.bn_dw(self.conv_dw(y))
        if self.se is not None:
            y = self.se(y)
        y = self.ghost2(y)
        return y + (x if self.shortcut is None else self.shortcut(x))


class RepGhostNet(GhostNetFrame):
    """GhostNet's frame with RepGhost modules.

    Args:
        width: factor of the channels.
        num_classes: outputs of the classifier; 0 for none (the hidden layer's features go out).
        in_channels: channels of the images.
        drop_rate: dropout before the classifier.
        deploy: build the deploy form, for weights that ``mindcv_ghost.surgery.deploy`` made.

    Inputs:
        Images of shape (N, in_channels, H, W), of any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; timm's ``repghost.py``.
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
            return RepGhostBottleneck(*shape, deploy=deploy)

        arguments = {"width": width, "in_channels": in_channels, "drop_rate": drop_rate}
        super().__init__(
            STAGES,
            block,
            last_expansion=2,
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
        RepGhostNet,
        pretrained,
        default_cfgs[name],
        width=WIDTHS[name],
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )


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
