"""G-Ghost-RegNetX: RegNets whose stages derive part of their maps by cheap operations.

Paper: Han et al., "GhostNets on Heterogeneous Devices via Cheap Operations", IJCV 2022 (arXiv
2201.03297): Ghost stages for GPUs, where depthwise convolutions are slow. Applied to RegNetX
(Radosavovic et al., arXiv 2003.13678) in all of its twelve sizes.

Reproduced: in a stage of more than two blocks, the first block computes all maps. Half of them
(rounded down to whole groups) pass through thinner blocks, the complicated branch. The other half
passes through a 1x1 convolution only, the cheap operation; the mix operation adds to it a vector
computed from the pooled outputs of all preceding blocks of the stage. Both halves are concatenated
for the last block. Group widths, the dropout of 0.2, the initialisation of convolutions and BN, and
the parameters' names are those of the authors' ``g_ghost_regnet.py``.

Deviations: the classifier is initialised like the zoo's others, not by PyTorch's default. The
authors' ``dilate`` options are left out; none of their networks uses them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mindspore import Tensor, nn, ops

from mindcv_ghost.layers import GlobalAvgPool, kaiming_normal_fan_out
from mindcv_ghost.models.classifier import ImageClassifier
from mindcv_ghost.models.factory import create_variant, default_cfg
from mindcv_ghost.registry import register_model

# MindCV's `register_model` appends the entry points.
__all__ = ["GGhostRegNet", "GGhostStage", "RegNetBlock"]

STEM_CHANNELS = 32
# Share of a stage's maps that the cheap operation computes, and group width of the thin blocks as a
# share of the stage's group width (both from the authors' file).
CHEAP_SHARE = 0.5
THIN_GROUP_SHARE = 0.75

# Blocks and channels of layer1 ... layer4, channels of a group.
_SIZES = {
    "g_ghost_regnetx_002": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "g_ghost_regnetx_004": ((1, 2, 7, 12), (32, 64, 160, 384), 16),
    "g_ghost_regnetx_006": ((1, 3, 5, 7), (48, 96, 240, 528), 24),
    "g_ghost_regnetx_008": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
    "g_ghost_regnetx_016": ((2, 4, 10, 2), (72, 168, 408, 912), 24),
    "g_ghost_regnetx_032": ((2, 6, 15, 2), (96, 192, 432, 1008), 48),
    "g_ghost_regnetx_040": ((2, 5, 14, 2), (80, 240, 560, 1360), 40),
    "g_ghost_regnetx_064": ((2, 4, 10, 1), (168, 392, 784, 1624), 56),
    "g_ghost_regnetx_080": ((2, 5, 15, 1), (80, 240, 720, 1920), 120),
    "g_ghost_regnetx_120": ((2, 5, 11, 1), (224, 448, 896, 2240), 112),
    "g_ghost_regnetx_160": ((2, 6, 13, 1), (256, 512, 896, 2048), 128),
    "g_ghost_regnetx_320": ((2, 7, 13, 1), (336, 672, 1344, 2520), 168),
}

VARIANTS: dict[str, dict[str, Any]] = {
    name: {"blocks": blocks, "channels": channels, "group_width": group_width}
    for name, (blocks, channels, group_width) in _SIZES.items()
}

default_cfgs = {name: default_cfg(first_conv="conv1", classifier="fc") for name in VARIANTS}


def _conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        pad_mode="pad",
        padding=kernel_size // 2,
        group=groups,
        has_bias=False,
        # Fan-out over all groups together, as in the authors' code and in RegNet's own.
        weight_init=kaiming_normal_fan_out(out_channels, kernel_size),
    )


class RegNetBlock(nn.Cell):
    """RegNet's X block: convolutions of 1x1, grouped 3x3 and 1x1, and a shortcut.

    Args:
        in_channels: input channels.
        channels: output channels.
        stride: stride of the 3x3 convolution and of the shortcut.
        group_width: channels of a group; if it exceeds ``channels``, there is one group.

    Inputs: (N, in_channels, H, W). Outputs: (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, group_width: int = 1
    ) -> None:
        super().__init__()
        groups = channels // min(channels, group_width)
        self.conv1 = _conv(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.SequentialCell(
                [_conv(in_channels, channels, stride=stride), nn.BatchNorm2d(channels)]
            )

    def construct(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class GGhostStage(nn.Cell):
    """A Ghost stage: thin blocks compute one part of the maps, a cheap operation the other.

    Args:
        in_channels: input channels.
        channels: output channels.
        blocks: number of blocks, including the first and the last; at least 3.
        group_width: channels of a group in the first and the last block.

    Inputs: (N, in_channels, H, W). Outputs: (N, channels, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: if ``blocks`` is less than 3.

    Source: paper; the authors' ``g_ghost_regnet.py``.
    """

    def __init__(self, in_channels: int, channels: int, blocks: int, group_width: int) -> None:
        super().__init__()
        if blocks < 3:
            raise ValueError(f"blocks is {blocks}, but a Ghost stage has at least 3")
        thin_width = int(group_width * THIN_GROUP_SHARE)
        self.complex = int(channels * (1 - CHEAP_SHARE) / thin_width) * thin_width
        ghost = channels - self.complex
        thin_blocks = blocks - 2

        self.base = RegNetBlock(in_channels, channels, 2, group_width)
        self.layers = nn.CellList(
            [RegNetBlock(self.complex, self.complex, 1, thin_width) for _ in range(thin_blocks)]
        )
        self.merge = nn.SequentialCell(
            [
                GlobalAvgPool(keep_dims=True),
                _conv(channels + self.complex * thin_blocks, ghost),
                nn.BatchNorm2d(ghost),
                nn.ReLU(),
                _conv(ghost, ghost),
                nn.BatchNorm2d(ghost),
            ]
        )
        self.cheap = nn.SequentialCell([_conv(ghost, ghost), nn.BatchNorm2d(ghost)])
        self.relu = nn.ReLU()
        self.end = RegNetBlock(channels, channels, 1, group_width)

    def construct(self, x: Tensor) -> Tensor:
        x = self.base(x)
        complicated = x[:, : self.complex]
        seen = tuple([x])  # a tuple of any length to type checkers
        for block in self.layers:
            complicated = block(complicated)
            seen = seen + (complicated,)
        ghosts = self.cheap(x[:, self.complex :]) + self.merge(ops.concat(seen, axis=1))
        return self.end(ops.concat((complicated, self.relu(ghosts)), axis=1))


class GGhostRegNet(ImageClassifier):
    """RegNetX with a Ghost stage wherever a stage has more than two blocks.

    Args:
        blocks: number of blocks in each of the four stages.
        channels: output channels of each of the four stages.
        group_width: channels of a group.
        num_classes: outputs of the classifier; 0 for none (returns the pooled features).
        in_channels: channels of the images.
        drop_rate: dropout probability before the classifier.

    Inputs:
        Images of shape (N, in_channels, H, W) and any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; deviations at the top of this file.
    """

    classifier_name = "fc"

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        channels: tuple[int, int, int, int],
        group_width: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
    ) -> None:
        super().__init__(drop_rate)
        self.conv1 = _conv(in_channels, STEM_CHANNELS, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU()
        self.feature_info = [{"chs": STEM_CHANNELS, "reduction": 2, "name": "relu"}]
        channels_in = STEM_CHANNELS
        for number, (depth, width) in enumerate(zip(blocks, channels), start=1):
            # The authors' first stage is plain at any depth; in their networks it has at most 2
            # blocks.
            if depth > 2 and number > 1:
                stage = GGhostStage(channels_in, width, depth, group_width)
            else:
                plain = [RegNetBlock(channels_in, width, 2, group_width)]
                plain += [RegNetBlock(width, width, 1, group_width) for _ in range(depth - 1)]
                stage = nn.SequentialCell(plain)
            setattr(self, f"layer{number}", stage)
            channels_in = width
            self.feature_info.append(
                {"chs": width, "reduction": 2 ** (number + 1), "name": f"layer{number}"}
            )
        self.pool = GlobalAvgPool()
        self.add_classifier(channels_in, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute maps (N, num_features, ceil(H / 32), ceil(W / 32)) from images."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from features (N, num_features)."""
        if self.dropout is not None:
            x = self.dropout(x)
        return self.fc(x)


_create = partial(create_variant, GGhostRegNet, VARIANTS, default_cfgs)


@register_model
def g_ghost_regnetx_002(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 0.2 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_002", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_004(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 0.4 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_004", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_006(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 0.6 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_006", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_008(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 0.8 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_008", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_016(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 1.6 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_016", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_032(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 3.2 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_032", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_040(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 4.0 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_040", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_064(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 6.4 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_064", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_080(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 8.0 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_080", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_120(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 12 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_120", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_160(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 16 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_160", pretrained, num_classes, in_channels, **kwargs)


@register_model
def g_ghost_regnetx_320(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """G-Ghost-RegNetX, from RegNetX of 32 GF; options: :class:`GGhostRegNet`."""
    return _create("g_ghost_regnetx_320", pretrained, num_classes, in_channels, **kwargs)
