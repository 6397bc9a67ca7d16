"""Ghost-ResNet 18, 34, 50, 101 and 152: ResNet with Ghost modules in place of convolutions.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
"Large Models on ImageNet": Ghost-ResNet-50 with s = 2 and s = 4. The other depths are ours and
follow the same rule.

Reproduced: every convolution except the 7x7 stem is a Ghost module, including the one on the
shortcut. The stride is on the 3x3 convolution (as in torchvision). Both branches of every Ghost
module have BN; both have ReLU except in the last module of a block and in the shortcut.

Deviations: in the authors' released ``ghost_resnet.py`` the Ghost modules never apply their BN
layers, and derive ghosts from maps before ReLU, which the block applies afterwards; it holds
parameters that no forward pass uses, and takes 224x224 images only. Here BN is applied, ghosts are
derived after ReLU as in their ``ghostnet.py``, every parameter is used, and the average pool is
global, so any image size works.

Counts: the operations are the paper's (2.2 and 1.2 billion). The paper's parameters (13.0M, 6.5M)
couldn't be reproduced exactly: here they are 13.95M and 8.15M, and SlimConv's authors (Qiu et al.,
2020) also count 13.95M parameters and 2.15 billion operations for s = 2. A Ghost module as the
classifier (``ghost_classifier=True``) comes closest: 12.93M and 6.62M.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from mindspore import Tensor, nn
from mindspore.common.initializer import initializer

from mindcv_ghost.layers import (
    GhostClassifier,
    GhostModule,
    GlobalAvgPool,
    StemMaxPool,
    kaiming_normal_fan_out,
)
from mindcv_ghost.models.classifier import ImageClassifier
from mindcv_ghost.models.factory import create_variant, default_cfg
from mindcv_ghost.registry import register_model

# MindCV's `register_model` appends the entry points.
__all__ = ["GhostBasicBlock", "GhostBottleneck", "GhostResNet"]

STEM_CHANNELS = 64
# Channels and first stride of layer1 ... layer4; a block outputs `expansion` times the channels.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class GhostBasicBlock(nn.Cell):
    """Two 3x3 Ghost modules and a shortcut (Ghost-ResNet 18 and 34).

    Args:
        in_channels: input channels.
        channels: channels inside the block; ``channels * expansion`` are its output channels.
        stride: stride of the first module and of the shortcut.
        ghost: :class:`GhostModule` with ``ratio`` and ``cheap_kernel_size`` bound.

    Inputs: (N, in_channels, H, W). Outputs: (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, ghost: Callable[..., GhostModule]
    ) -> None:
        super().__init__()
        self.conv1 = ghost(in_channels, channels, 3, stride=stride)
        self.conv2 = ghost(channels, channels, 3, act=False)
        self.downsample = _shortcut(in_channels, channels, stride, ghost)
        self.relu = nn.ReLU()

    def zero_init_last(self) -> None:
        """Let the block start as its shortcut."""
        _zero_gammas(self.conv2)

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


class GhostBottleneck(nn.Cell):
    """Ghost modules of 1x1, 3x3 and 1x1 and a shortcut (Ghost-ResNet 50, 101 and 152).

    Args:
        in_channels: input channels.
        channels: channels of the 3x3 module; ``channels * expansion`` are the output channels.
        stride: stride of the 3x3 module and of the shortcut.
        ghost: :class:`GhostModule` with ``ratio`` and ``cheap_kernel_size`` bound.

    Inputs: (N, in_channels, H, W). Outputs: (N, 4 * channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, ghost: Callable[..., GhostModule]
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = ghost(in_channels, channels, 1)
        self.conv2 = ghost(channels, channels, 3, stride=stride)
        self.conv3 = ghost(channels, out_channels, 1, act=False)
        self.downsample = _shortcut(in_channels, out_channels, stride, ghost)
        self.relu = nn.ReLU()

    def zero_init_last(self) -> None:
        """Let the block start as its shortcut."""
        _zero_gammas(self.conv3)

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


def _shortcut(
    in_channels: int, out_channels: int, stride: int, ghost: Callable[..., GhostModule]
) -> GhostModule | None:
    """Make the 1x1 Ghost module of a block that changes size or channels, else None (identity)."""
    if stride == 1 and in_channels == out_channels:
        return None
    return ghost(in_channels, out_channels, 1, stride=stride, act=False)


def _zero_gammas(module: GhostModule) -> None:
    """Set gamma to 0 in both branches: the cheap BN alone would restore the scale of its input."""
    for branch in (module.primary, module.cheap):
        if branch is not None and branch.bn is not None:
            branch.bn.gamma.set_data(initializer("zeros", branch.bn.gamma.shape))


class GhostResNet(ImageClassifier):
    """ResNet with Ghost modules in place of all convolutions except the stem's.

    Parameters have torchvision's names for ResNet, followed by ``primary`` or ``cheap`` for a Ghost
    module's branch: ``layer1.0.conv1.primary.conv.weight``,
    ``layer1.0.downsample.cheap.bn.gamma``, ``classifier.weight``.

    Args:
        block: :class:`GhostBasicBlock` or :class:`GhostBottleneck`.
        layers: blocks in each of the four stages.
        num_classes: outputs of the classifier; 0 for none (returns the pooled features).
        in_channels: channels of the images.
        ratio: s in the paper, for every Ghost module.
        cheap_kernel_size: d in the paper, for every Ghost module.
        drop_rate: dropout probability before the classifier.
        ghost_classifier: use a :class:`GhostClassifier` of the same ratio as the classifier.
        zero_init_last: start the last BNs of every block at gamma 0, so that each block starts as
            its shortcut (timm's option of this name; Goyal et al., arXiv 1706.02677, section 5.1).

    Inputs:
        Images of shape (N, in_channels, H, W) and any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1, or for the reasons that
            :class:`GhostModule` gives.

    Source: paper, "Large Models on ImageNet"; deviations at the top of this file.
    """

    def __init__(
        self,
        block: type[GhostBasicBlock] | type[GhostBottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        drop_rate: float = 0.0,
        ghost_classifier: bool = False,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__(drop_rate)
        ghost = partial(GhostModule, ratio=ratio, cheap_kernel_size=cheap_kernel_size)

        self.conv1 = nn.Conv2d(
            in_channels,
            STEM_CHANNELS,
            kernel_size=7,
            stride=2,
            pad_mode="pad",
            padding=3,
            has_bias=False,
            weight_init=kaiming_normal_fan_out(STEM_CHANNELS, kernel_size=7),
        )
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU()
        self.feature_info = [{"chs": STEM_CHANNELS, "reduction": 2, "name": "relu"}]
        self.max_pool = StemMaxPool()
        channels_in, reduction = STEM_CHANNELS, 4
        for number, (depth, (channels, stride)) in enumerate(zip(layers, STAGES), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(block(channels_in, channels, stride if index == 0 else 1, ghost))
                channels_in = channels * block.expansion
            if zero_init_last:
                for made in blocks:
                    made.zero_init_last()
            setattr(self, f"layer{number}", nn.SequentialCell(blocks))
            reduction *= stride
            self.feature_info.append(
                {"chs": channels_in, "reduction": reduction, "name": f"layer{number}"}
            )

        self.pool = GlobalAvgPool()
        self.classifier_ratio = ratio if ghost_classifier else 1
        self.add_classifier(channels_in, num_classes)

    def make_classifier(self, num_classes: int) -> nn.Cell:
        """Make a linear layer, or a Ghost classifier of the modules' ratio if asked for."""
        if self.classifier_ratio > 1:
            return GhostClassifier(self.num_features, num_classes, self.classifier_ratio)
        return super().make_classifier(num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """Compute maps (N, 64, ceil(H / 4), ceil(W / 4)) from images (N, in_channels, H, W)."""
        return self.max_pool(self.relu(self.bn1(self.conv1(x))))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute maps (N, num_features, ceil(H / 32), ceil(W / 32)) from images."""
        x = self.stem(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        return x


# Without a ratio here, the caller chooses one.
VARIANTS: dict[str, dict[str, Any]] = {
    "ghost_resnet18": {"block": GhostBasicBlock, "layers": (2, 2, 2, 2)},
    "ghost_resnet34": {"block": GhostBasicBlock, "layers": (3, 4, 6, 3)},
    "ghost_resnet50": {"block": GhostBottleneck, "layers": (3, 4, 6, 3)},
    "ghost_resnet101": {"block": GhostBottleneck, "layers": (3, 4, 23, 3)},
    "ghost_resnet152": {"block": GhostBottleneck, "layers": (3, 8, 36, 3)},
    "ghost_resnet50_s2": {"block": GhostBottleneck, "layers": (3, 4, 6, 3), "ratio": 2},
    "ghost_resnet50_s3": {"block": GhostBottleneck, "layers": (3, 4, 6, 3), "ratio": 3},
    "ghost_resnet50_s4": {"block": GhostBottleneck, "layers": (3, 4, 6, 3), "ratio": 4},
    "ghost_resnet50_s5": {"block": GhostBottleneck, "layers": (3, 4, 6, 3), "ratio": 5},
}

default_cfgs = {name: default_cfg(first_conv="conv1") for name in VARIANTS}

_create = partial(create_variant, GhostResNet, VARIANTS, default_cfgs)


@register_model
def ghost_resnet18(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-18, by default ratio 2 and 3x3 cheap kernels; options: :class:`GhostResNet`."""
    return _create("ghost_resnet18", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet34(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-34, by default ratio 2 and 3x3 cheap kernels; options: :class:`GhostResNet`."""
    return _create("ghost_resnet34", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet50(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-50, by default ratio 2 and 3x3 cheap kernels; options: :class:`GhostResNet`."""
    return _create("ghost_resnet50", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet101(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-101, by default ratio 2 and 3x3 cheap kernels; options: :class:`GhostResNet`."""
    return _create("ghost_resnet101", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet152(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-152, by default ratio 2 and 3x3 cheap kernels; options: :class:`GhostResNet`."""
    return _create("ghost_resnet152", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet50_s2(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-50 of ratio 2 (one of the two in the paper); options: :class:`GhostResNet`."""
    return _create("ghost_resnet50_s2", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet50_s3(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-50 of ratio 3 (not in the paper); options: :class:`GhostResNet`."""
    return _create("ghost_resnet50_s3", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet50_s4(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-50 of ratio 4 (one of the two in the paper); options: :class:`GhostResNet`."""
    return _create("ghost_resnet50_s4", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet50_s5(
    pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-50 of ratio 5 (not in the paper); options: :class:`GhostResNet`."""
    return _create("ghost_resnet50_s5", pretrained, num_classes, in_channels, **kwargs)
