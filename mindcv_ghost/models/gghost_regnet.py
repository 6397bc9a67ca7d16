"""G-Ghost-RegNetX: RegNets whose stages compute part of their maps once and reuse them.

Paper: Han et al., "GhostNets on Heterogeneous Devices via Cheap Operations", IJCV 2022 (arXiv
2201.03297): Ghost stages for GPUs, where depthwise convolutions don't pay. On RegNetX
(Radosavovic et al., arXiv 2003.13678), in all of its twelve sizes.

Reproduced: in a stage of more than two blocks, the first block puts out all maps; half of them
(rounded down to whole groups) go on through thinner blocks, the complicated branch; the others are
only mixed by a 1x1 convolution, to which comes what the mix operation draws from the average maps
of all the blocks before it. Both are joined for the last block. Widths of groups, the dropout of
0.2 and the initialisation are those of the authors' ``g_ghost_regnet.py``, and so are the
parameters' names.

Deviation: the authors' ``dilate`` options, which none of their networks uses, aren't there.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform

from mindcv_ghost.layers import GlobalAvgPool, kaiming_normal_fan_out
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["GGhostRegNet", "GGhostStage", "RegNetBlock"]

STEM_CHANNELS = 32
# Of a stage's maps, those that the cheap operation makes; of a group's width, what its thinner
# blocks keep (the authors' file).
CHEAP_SHARE = 0.5
THIN_GROUP_SHARE = 0.75

VARIANTS = {
    # name: blocks and channels of layer1 ... layer4, channels of a group
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

default_cfgs = {
    name: {"url": "", "num_classes": 1000, "first_conv": "conv1", "classifier": "fc"}
    for name in VARIANTS
}


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
        # As the authors': over the outputs of all groups, as RegNet's own code has it, too.
        weight_init=kaiming_normal_fan_out(out_channels, kernel_size),
    )


class RegNetBlock(nn.Cell):
    """RegNet's X block: convolutions of 1x1, 3x3 in groups, and 1x1, and a shortcut.

    Args:
        in_channels: maps that come in.
        channels: maps that go out.
        stride: step of the 3x3 convolution and of the shortcut.
        group_width: channels of a group; more than there are means one group.

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
    """A Ghost stage: thin blocks for one part of the maps, a cheap operation for the other.

    Args:
        in_channels: maps that come in.
        channels: maps that go out.
        blocks: in the stage, the first and the last included; at least 3.
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
        seen = (x,)
        for block in self.layers:
            complicated = block(complicated)
            seen = seen + (complicated,)
        ghosts = self.cheap(x[:, self.complex :]) + self.merge(ops.concat(seen, axis=1))
        return self.end(ops.concat((complicated, self.relu(ghosts)), axis=1))


class GGhostRegNet(nn.Cell):
    """RegNetX with Ghost stages wherever a stage has more than two blocks.

    Args:
        blocks: in each of the four stages.
        channels: of each of the four stages.
        group_width: channels of a group.
        num_classes: outputs of the classifier; 0 for none (the pooled features go out).
        in_channels: channels of the images.
        drop_rate: dropout before the classifier.

    Inputs:
        Images of shape (N, in_channels, H, W), of any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.

    Source: paper; deviations at the top of this file.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        channels: tuple[int, int, int, int],
        group_width: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}, but it must lie within 0 <= drop_rate < 1")
        # In the order of use and each used once: MindCV's FeatureExtractWrapper relies on it.
        self.conv1 = _conv(in_channels, STEM_CHANNELS, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU()
        self.feature_info = [{"chs": STEM_CHANNELS, "reduction": 2, "name": "relu"}]
        channels_in = STEM_CHANNELS
        for number, (depth, width) in enumerate(zip(blocks, channels), start=1):
            # The authors' first stage is plain at any depth; no network of theirs has more than 2.
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
        self.dropout = nn.Dropout(p=drop_rate) if drop_rate > 0.0 else None
        self.num_features = channels_in
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new, freshly initialised classifier; with 0 classes, none."""
        self.num_classes = num_classes
        if num_classes == 0:
            self.fc = nn.Identity()
            return
        self.fc = nn.Dense(
            self.num_features,
            num_classes,
            weight_init=HeUniform(mode="fan_in", nonlinearity="sigmoid"),  # as MindCV's ResNet
            bias_init="zeros",
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to maps (N, num_features, ceil(H / 32), ceil(W / 32))."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Maps of :meth:`forward_features` to logits (N, num_classes)."""
        x = self.pool(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.fc(x)

    def construct(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


def _create(
    name: str, pretrained: bool, num_classes: int, in_channels: int, **kwargs: Any
) -> nn.Cell:
    """Build one size; MindCV's builder adds ``features_only`` and ``out_indices``."""
    if pretrained:
        require_weights(name, default_cfgs[name])
    blocks, channels, group_width = VARIANTS[name]
    return build_model_with_cfg(
        GGhostRegNet,
        pretrained,
        default_cfgs[name],
        blocks=blocks,
        channels=channels,
        group_width=group_width,
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )


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
