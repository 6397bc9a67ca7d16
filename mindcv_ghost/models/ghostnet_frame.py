"""The frame that GhostNetV2, GhostNetV3 and RepGhostNet share with GhostNet: stem, stages, head.

GhostNet itself (Han et al., arXiv 1911.11907) is MindCV's: ``ghostnet_050`` and others.
Parameters are named as timm names them, with the Ghost modules' branches below ``primary`` and
``cheap``. Convolutions start as in the other networks here (He et al., fan-out); the authors leave
PyTorch's default.
"""

from __future__ import annotations

from typing import Any, Callable

from mindcv.models.helpers import make_divisible
from mindspore import Tensor, nn

from mindcv_ghost.layers import ConvNormAct, GlobalAvgPool, SqueezeExcite, kaiming_normal_fan_out

__all__ = ["GhostNetFrame", "depthwise", "shortcut", "squeeze_excite"]

HEAD_FEATURES = 1280
STEM_CHANNELS = 16
# Channels are multiples of it, times the width.
DIVISOR = 4


class GhostNetFrame(nn.Cell):
    """Stem, stages of bottlenecks, a 1x1 convolution, and a head with one hidden layer.

    Args:
        stages: for each stage its blocks, as (kernel size, expanded channels, channels put out,
            squeeze-excite ratio, stride), before the width is applied.
        block: makes a bottleneck from its number, in_channels, expanded channels, channels put out,
            kernel size, stride and squeeze-excite ratio.
        width: factor of all channels but the head's.
        last_expansion: channels of the last convolution over the last block's expanded ones.
        num_classes: outputs of the classifier; 0 for none (the hidden layer's features go out).
        in_channels: channels of the images.
        drop_rate: dropout before the classifier.
        arguments: with which a subclass was made, for :meth:`with_arguments`.

    Inputs:
        Images of shape (N, in_channels, H, W).

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.
    """

    # The blocks count as outermost cells for MindCV's FeatureExtractWrapper.
    flatten_sequential = True

    def __init__(
        self,
        stages: tuple[tuple[tuple[float, ...], ...], ...],
        block: Callable[..., nn.Cell],
        width: float,
        last_expansion: int,
        num_classes: int,
        in_channels: int,
        drop_rate: float,
        arguments: dict[str, Any],
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}, but it must lie within 0 <= drop_rate < 1")
        self.arguments = arguments
        channels_in = make_divisible(STEM_CHANNELS * width, DIVISOR)
        # In the order of use and each used once: MindCV's FeatureExtractWrapper relies on it.
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
        # As in timm, the stem's feature is what its convolution puts out.
        self.feature_info = [{"chs": channels_in, "reduction": 2, "name": "conv_stem"}]
        cells, number, reduction, expanded = [], 0, 2, 0
        for index, stage in enumerate(stages):
            blocks = []
            for kernel_size, expansion, out_channels, se_ratio, stride in stage:
                expanded = expansion
                mid = make_divisible(expansion * width, DIVISOR)
                out = make_divisible(out_channels * width, DIVISOR)
                blocks.append(block(number, channels_in, mid, out, kernel_size, stride, se_ratio))
                channels_in, number = out, number + 1
                reduction *= stride
            cells.append(nn.SequentialCell(blocks))
            if reduction > self.feature_info[-1]["reduction"]:
                self.feature_info.append(
                    {"chs": channels_in, "reduction": reduction, "name": f"blocks.{index}"}
                )
        last = make_divisible(expanded * width * last_expansion, DIVISOR)
        cells.append(nn.SequentialCell([ConvNormAct(channels_in, last, 1, act=nn.ReLU)]))
        self.blocks = nn.SequentialCell(cells)
        self.pool = GlobalAvgPool(keep_dims=True)
        self.conv_head = nn.Conv2d(last, HEAD_FEATURES, 1, has_bias=True)
        self.act2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(p=drop_rate) if drop_rate > 0.0 else None
        self.num_features = HEAD_FEATURES
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new, freshly initialised classifier; with 0 classes, none."""
        self.num_classes = num_classes
        if num_classes == 0:
            self.classifier = nn.Identity()
            return
        self.classifier = nn.Dense(self.num_features, num_classes)

    def with_arguments(self, **changes: Any) -> nn.Cell:
        """Make a network of this class with this one's arguments but ``changes``; new weights."""
        return type(self)(**{**self.arguments, "num_classes": self.num_classes, **changes})

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to maps (N, C, ceil(H / 32), ceil(W / 32))."""
        x = self.conv_stem(x)
        x = self.bn1(x)
        x = self.act1(x)
        x = self.blocks(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Maps of :meth:`forward_features` to logits (N, num_classes)."""
        x = self.pool(x)
        x = self.conv_head(x)
        x = self.act2(x)
        x = self.flatten(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.classifier(x)

    def construct(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


def depthwise(channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    """Make a depthwise convolution, padded as PyTorch pads."""
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
    """Make a bottleneck's shortcut where it changes size or channels, else None (the identity)."""
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
    """Make a bottleneck's squeeze-and-excitation; None where ``ratio`` is 0."""
    if ratio == 0:
        return None
    return SqueezeExcite(channels, make_divisible(channels * ratio, DIVISOR))
