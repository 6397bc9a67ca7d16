"""What GhostNetV2, GhostNetV3 and RepGhostNet share with GhostNet: stem, stages and head.

GhostNet itself (Han et al., arXiv 1911.11907) is MindCV's own: ``ghostnet_050`` and others.
Parameters have timm's names; a Ghost module's two branches are named ``primary`` and ``cheap``.
Convolutions are initialised as in the zoo's other networks (He et al., fan-out), except for those
of the head and of squeeze-and-excitation, which keep MindSpore's default. The authors keep
PyTorch's.
"""

from __future__ import annotations

from typing import Any, Callable

from mindcv.models.helpers import make_divisible
from mindspore import Tensor, nn

from mindcv_ghost.layers import ConvNormAct, GlobalAvgPool, SqueezeExcite, kaiming_normal_fan_out
from mindcv_ghost.layers.accelerated import ordinary_class
from mindcv_ghost.models.classifier import ImageClassifier

__all__ = ["Bottleneck", "GhostNetFrame", "Stage", "depthwise", "shortcut", "squeeze_excite"]

HEAD_FEATURES = 1280
STEM_CHANNELS = 16
# Channel counts are rounded to multiples of this number after the width is applied.
DIVISOR = 4

# For each block, before the width is applied: kernel size, expanded channels, output channels,
# squeeze-and-excitation ratio, stride.
Stage = tuple[tuple[int, int, int, float, int], ...]


class GhostNetFrame(ImageClassifier):
    """Stem, stages of bottlenecks, a 1x1 convolution, and a head with one hidden layer.

    A subclass sets ``stages``, ``bottleneck`` and, if it isn't 1, ``last_expansion``: the channels
    of the last convolution as a multiple of the last block's expanded channels.

    Args:
        width: factor for all channel counts except the head's.
        num_classes: outputs of the classifier; 0 for none (returns the hidden layer's features).
        in_channels: channels of the images.
        drop_rate: dropout probability before the classifier.
        options: further arguments of the bottlenecks.

    Inputs:
        Images of shape (N, in_channels, H, W).

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.
    """

    # For MindCV's FeatureExtractWrapper: each stage in `blocks` counts as an outermost cell.
    flatten_sequential = True

    stages: tuple[Stage, ...]
    # Makes a block from its number (from 0), input channels, expanded channels, output channels,
    # kernel size, stride and squeeze-and-excitation ratio, and `options`.
    bottleneck: Callable[..., nn.Cell]
    last_expansion = 1

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(drop_rate)
        self.width, self.in_channels = width, in_channels
        channels_in = make_divisible(STEM_CHANNELS * width, DIVISOR)
        self.conv_stem = nn.Conv2d(
            in_channels,
            channels_in,
            3,
            stride=2,
            pad_mode="pad",
            padding=1,
            weight_init=kaiming_normal_fan_out(channels_in, kernel_size=3),
        )
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.act1 = nn.ReLU()
        # As in timm, the stem's feature is its convolution's output, before BN.
        self.feature_info = [{"chs": channels_in, "reduction": 2, "name": "conv_stem"}]
        cells, number, reduction, expanded = [], 0, 2, 0
        for index, stage in enumerate(self.stages):
            blocks = []
            for kernel_size, expanded, out_channels, se_ratio, stride in stage:
                mid = make_divisible(expanded * width, DIVISOR)
                out = make_divisible(out_channels * width, DIVISOR)
                shape = (number, channels_in, mid, out, kernel_size, stride, se_ratio)
                blocks.append(self.bottleneck(*shape, **options))
                channels_in, number = out, number + 1
                reduction *= stride
            cells.append(nn.SequentialCell(blocks))
            if reduction > self.feature_info[-1]["reduction"]:
                self.feature_info.append(
                    {"chs": channels_in, "reduction": reduction, "name": f"blocks.{index}"}
                )
        last = make_divisible(expanded * width * self.last_expansion, DIVISOR)
        cells.append(nn.SequentialCell([ConvNormAct(channels_in, last, 1, act=nn.ReLU)]))
        self.blocks = nn.SequentialCell(cells)
        self.pool = GlobalAvgPool(keep_dims=True)
        self.conv_head = nn.Conv2d(last, HEAD_FEATURES, 1, has_bias=True)
        self.act2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.add_classifier(HEAD_FEATURES, num_classes)

    def make_classifier(self, num_classes: int) -> nn.Cell:
        """Make a linear layer with MindSpore's default initialisation."""
        return nn.Dense(self.num_features, num_classes)

    def with_arguments(self, **changes: Any) -> nn.Cell:
        """Make a newly initialised network with this one's arguments, except for ``changes``."""
        arguments: dict[str, Any] = {
            "width": self.width,
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "drop_rate": self.drop_rate,
        }
        return ordinary_class(self)(**{**arguments, **changes})

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute maps (N, C, ceil(H / 32), ceil(W / 32)) from images (N, in_channels, H, W)."""
        x = self.conv_stem(x)
        x = self.bn1(x)
        x = self.act1(x)
        x = self.blocks(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from the maps of :meth:`forward_features`."""
        x = self.pool(x)
        x = self.conv_head(x)
        x = self.act2(x)
        x = self.flatten(x)
        return self.classify(x)


class Bottleneck(nn.Cell):
    """Ghost module, depthwise convolution, squeeze-and-excitation, Ghost module, and a shortcut.

    The base of the three families' bottlenecks. A subclass creates the cells in this order, which
    fixes the order of the parameters and of the random numbers that initialise them. It has the
    depthwise convolution only where the stride is 2.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    ghost1: nn.Cell
    conv_dw: nn.Cell | None
    bn_dw: nn.Cell | None
    se: nn.Cell | None
    ghost2: nn.Cell
    shortcut: nn.Cell | None

    def construct(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        if self.conv_dw is not None:
            y = self.conv_dw(y)
        if self.bn_dw is not None:
            y = self.bn_dw(y)
        if self.se is not None:
            y = self.se(y)
        y = self.ghost2(y)
        return y + (x if self.shortcut is None else self.shortcut(x))


def depthwise(channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    """Make a depthwise convolution with PyTorch's padding, ``kernel_size // 2`` on every side."""
    return nn.Conv2d(
        channels,
        channels,
        kernel_size,
        stride,
        pad_mode="pad",
        padding=kernel_size // 2,
        group=channels,
        weight_init=kaiming_normal_fan_out(channels, kernel_size, channels),
    )


def shortcut(
    in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> nn.SequentialCell | None:
    """Make the shortcut of a bottleneck that changes size or channels, else None (identity)."""
    if stride == 1 and in_channels == out_channels:
        return None
    pointwise = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=1,
        weight_init=kaiming_normal_fan_out(out_channels, kernel_size=1),
    )
    return nn.SequentialCell(
        [
            depthwise(in_channels, kernel_size, stride),
            nn.BatchNorm2d(in_channels),
            pointwise,
            nn.BatchNorm2d(out_channels),
        ]
    )


def squeeze_excite(channels: int, ratio: float) -> SqueezeExcite | None:
    """Make a bottleneck's squeeze-and-excitation, or None if ``ratio`` is 0."""
    if ratio == 0:
        return None
    return SqueezeExcite(channels, make_divisible(channels * ratio, DIVISOR))
