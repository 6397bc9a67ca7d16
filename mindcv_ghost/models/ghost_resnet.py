"""Ghost-ResNet 18, 34, 50, 101 and 152: ResNet with Ghost modules for convolutions.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
"Large Models on ImageNet": Ghost-ResNet-50 with s = 2 and s = 4. The other depths are ours, made by
the same rule.

Reproduced: every convolution but the 7x7 stem is a Ghost module, the one on the shortcut included;
the stride sits on the 3x3 convolution (as in torchvision); BN on both branches of every Ghost
module, ReLU on both but in the last module of a block and in the shortcut.

Deviations from the authors' released ``ghost_resnet.py``, which never applies its BN layers, holds
parameters that no forward pass uses and takes 224x224 only: BN is applied, nothing is unused, and
the average pool is global, so any size goes. Operations are the paper's (2.2 and 1.2 billion); the
paper's parameters (13.0M, 6.5M) are reached by no convention exactly: here 13.95M and 8.15M, and
SlimConv's authors (Qiu et al., 2020) also count 13.95M and 2.15 billion for s = 2. What comes
nearest is a classifier that is a Ghost module, too (``ghost_classifier=True``): 12.93M and 6.62M.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn
from mindspore.common.initializer import HeUniform

from mindcv_ghost.layers import (
    GhostClassifier,
    GhostModule,
    GlobalAvgPool,
    StemMaxPool,
    kaiming_normal_fan_out,
)
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["GhostBasicBlock", "GhostBottleneck", "GhostResNet"]

STEM_CHANNELS = 64
# Channels and first stride of layer1 ... layer4; a block puts out `expansion` times the channels.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


def _cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    return {
        "url": url,
        "num_classes": 1000,
        "first_conv": "conv1",
        "classifier": "classifier",
        **kwargs,
    }


class GhostBasicBlock(nn.Cell):
    """Two 3x3 Ghost modules and a shortcut (Ghost-ResNet 18 and 34).

    Args:
        in_channels: maps that come in.
        channels: maps of the block; ``channels * expansion`` go out.
        stride: step of the first module and of the shortcut.
        ghost: ``ratio`` and ``cheap_kernel_size`` for every Ghost module.

    Inputs: (N, in_channels, H, W). Outputs: (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, ghost: dict[str, int]) -> None:
        super().__init__()
        self.conv1 = GhostModule(in_channels, channels, 3, stride=stride, **ghost)
        self.conv2 = GhostModule(channels, channels, 3, act=False, **ghost)
        self.downsample = _shortcut(in_channels, channels, stride, ghost)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


class GhostBottleneck(nn.Cell):
    """Ghost modules of 1x1, 3x3 and 1x1 and a shortcut (Ghost-ResNet 50, 101 and 152).

    Args:
        in_channels: maps that come in.
        channels: maps of the 3x3 module; ``channels * expansion`` go out.
        stride: step of the 3x3 module and of the shortcut.
        ghost: ``ratio`` and ``cheap_kernel_size`` for every Ghost module.

    Inputs: (N, in_channels, H, W). Outputs: (N, 4 * channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, ghost: dict[str, int]) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = GhostModule(in_channels, channels, 1, **ghost)
        self.conv2 = GhostModule(channels, channels, 3, stride=stride, **ghost)
        self.conv3 = GhostModule(channels, out_channels, 1, act=False, **ghost)
        self.downsample = _shortcut(in_channels, out_channels, stride, ghost)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


def _shortcut(
    in_channels: int, out_channels: int, stride: int, ghost: dict[str, int]
) -> GhostModule | None:
    """A 1x1 Ghost module where the block changes size or channels, else the identity (None)."""
    if stride == 1 and in_channels == out_channels:
        return None
    return GhostModule(in_channels, out_channels, 1, stride=stride, act=False, **ghost)


class GhostResNet(nn.Cell):
    """ResNet whose convolutions, all but the stem's, are Ghost modules.

    Parameters are named as torchvision names ResNet's, with a Ghost module's ``primary`` and
    ``cheap`` branches below: ``layer1.0.conv1.primary.conv.weight``,
    ``layer1.0.downsample.cheap.bn.gamma``, ``classifier.weight``.

    Args:
        block: :class:`GhostBasicBlock` or :class:`GhostBottleneck`.
        layers: blocks in each of the four stages.
        num_classes: outputs of the classifier; 0 for none (the pooled features go out).
        in_channels: channels of the images.
        ratio: the paper's s, of every Ghost module.
        cheap_kernel_size: the paper's d, of every Ghost module.
        drop_rate: dropout before the classifier.
        ghost_classifier: make the classifier a :class:`GhostClassifier` of the same ratio.

    Inputs:
        Images of shape (N, in_channels, H, W), of any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1, or as :class:`GhostModule` raises.

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
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}, but it must lie within 0 <= drop_rate < 1")
        ghost = {"ratio": ratio, "cheap_kernel_size": cheap_kernel_size}

        # In the order of use and each used once: MindCV's FeatureExtractWrapper relies on it.
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
            setattr(self, f"layer{number}", nn.SequentialCell(blocks))
            reduction *= stride
            self.feature_info.append(
                {"chs": channels_in, "reduction": reduction, "name": f"layer{number}"}
            )

        self.pool = GlobalAvgPool()
        self.dropout = nn.Dropout(p=drop_rate) if drop_rate > 0.0 else None
        self.num_features = channels_in
        self.classifier_ratio = ratio if ghost_classifier else 1
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new, freshly initialised classifier; with 0 classes, none."""
        self.num_classes = num_classes
        if num_classes == 0:
            self.classifier = nn.Identity()
        elif self.classifier_ratio > 1:
            self.classifier = GhostClassifier(self.num_features, num_classes, self.classifier_ratio)
        else:
            self.classifier = nn.Dense(
                self.num_features,
                num_classes,
                weight_init=HeUniform(mode="fan_in", nonlinearity="sigmoid"),  # as MindCV's ResNet
                bias_init="zeros",
            )

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to maps (N, 64, ceil(H / 4), ceil(W / 4))."""
        return self.max_pool(self.relu(self.bn1(self.conv1(x))))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to maps (N, num_features, ceil(H / 32), ceil(W / 32))."""
        x = self.stem(x)
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
        return self.classifier(x)

    def construct(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


VARIANTS = {
    # name: block, blocks in layer1 ... layer4, ratio (None: the caller's, 2 by default)
    "ghost_resnet18": (GhostBasicBlock, (2, 2, 2, 2), None),
    "ghost_resnet34": (GhostBasicBlock, (3, 4, 6, 3), None),
    "ghost_resnet50": (GhostBottleneck, (3, 4, 6, 3), None),
    "ghost_resnet101": (GhostBottleneck, (3, 4, 23, 3), None),
    "ghost_resnet152": (GhostBottleneck, (3, 8, 36, 3), None),
    "ghost_resnet50_s2": (GhostBottleneck, (3, 4, 6, 3), 2),
    "ghost_resnet50_s3": (GhostBottleneck, (3, 4, 6, 3), 3),
    "ghost_resnet50_s4": (GhostBottleneck, (3, 4, 6, 3), 4),
    "ghost_resnet50_s5": (GhostBottleneck, (3, 4, 6, 3), 5),
}
default_cfgs = {name: _cfg() for name in VARIANTS}


def _create(
    name: str, pretrained: bool, num_classes: int, in_channels: int, **kwargs: Any
) -> nn.Cell:
    """Build a variant; MindCV's builder adds ``features_only`` and ``out_indices``."""
    default_cfg = default_cfgs[name]
    if pretrained:
        require_weights(name, default_cfg)
    block, layers, ratio = VARIANTS[name]
    if ratio is not None and kwargs.setdefault("ratio", ratio) != ratio:
        raise ValueError(
            f"{name} has ratio {ratio}, not {kwargs['ratio']}; ghost_resnet50 takes any ratio"
        )
    return build_model_with_cfg(
        GhostResNet,
        pretrained,
        default_cfg,
        block=block,
        layers=layers,
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )


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
