"""Ghost-ResNet 20, 32, 44, 56 and 110 for images of 32x32 pixels.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
its experiments on CIFAR-10: Ghost-ResNet-56 with s = 2, on the ResNets of He et al., "Deep Residual
Learning" (arXiv 1512.03385), section 4.2. The other depths are ours and follow the same rule.

Reproduced: every convolution, including the first, is a Ghost module. Shortcuts have no weights
(option A of He et al.: every second position, and zeros for the new channels). Cheap kernels of 1x1
give the paper's 0.43M parameters and 63M operations (429,882 and 63.0M), so they are the default;
the 3x3 kernels of the paper's other networks would give 0.44M and 65M.

Deviations: the average pool is global, so any image size works; ``width`` makes thinner networks,
which the paper doesn't have.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from mindspore import Tensor, nn, ops

from mindcv_ghost.layers import GhostModule, GlobalAvgPool
from mindcv_ghost.models.classifier import ImageClassifier
from mindcv_ghost.models.factory import create_variant, default_cfg
from mindcv_ghost.registry import register_model

# MindCV's `register_model` appends the entry points.
__all__ = ["GhostCifarBlock", "GhostCifarResNet"]

# Channels and first stride of layer1 ... layer3.
STAGES = ((16, 1), (32, 2), (64, 2))

# Blocks in each of the three stages: n in He et al.'s depth of 6n + 2.
VARIANTS = {
    "ghost_resnet20_cifar": {"blocks": 3},
    "ghost_resnet32_cifar": {"blocks": 5},
    "ghost_resnet44_cifar": {"blocks": 7},
    "ghost_resnet56_cifar": {"blocks": 9},
    "ghost_resnet110_cifar": {"blocks": 18},
}

default_cfgs = {
    name: default_cfg(first_conv="conv1.primary.conv", num_classes=10, input_size=(3, 32, 32))
    for name in VARIANTS
}


class GhostCifarBlock(nn.Cell):
    """Two 3x3 Ghost modules and a shortcut without weights.

    Args:
        in_channels: input channels.
        channels: output channels, at least ``in_channels``.
        stride: stride of the first module and of the shortcut.
        ghost: :class:`GhostModule` with ``ratio`` and ``cheap_kernel_size`` bound.

    Inputs: (N, in_channels, H, W). Outputs: (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, ghost: Callable[..., GhostModule]
    ) -> None:
        super().__init__()
        self.conv1 = ghost(in_channels, channels, 3, stride=stride)
        self.conv2 = ghost(channels, channels, 3, act=False)
        # Every second position, like x[:, :, ::2, ::2]. MindSpore 2.8 can't compute the gradient of
        # that slice on the CPU in PyNative mode ("StridedSliceGrad ... memory out of bounds").
        self.subsample = nn.MaxPool2d(kernel_size=1, stride=stride) if stride > 1 else None
        self.new_channels = channels - in_channels
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.subsample is not None:
            x = self.subsample(x)
        if self.new_channels > 0:
            # Half of the zeros on each side, as common implementations of option A have it.
            before = self.new_channels // 2
            zeros = ops.zeros_like(y)
            after = self.new_channels - before
            x = ops.concat((zeros[:, :before], x, zeros[:, :after]), axis=1)
        return self.relu(y + x)


class GhostCifarResNet(ImageClassifier):
    """ResNet for small images with Ghost modules in place of all convolutions.

    Args:
        blocks: number of blocks in each of the three stages.
        num_classes: outputs of the classifier; 0 for none (returns the pooled features).
        in_channels: channels of the images.
        ratio: s in the paper, for every Ghost module.
        cheap_kernel_size: d in the paper, for every Ghost module.
        drop_rate: dropout probability before the classifier.
        width: width multiplier, a factor for the channels of all stages, above 0. They are rounded
            to the nearest number, not to multiples of 8 as in networks for ImageNet: that would
            leave 8 and 16 for the first stage. A thin ResNet-20 of width 0.715 and ratio 1 has
            11, 23 and 46 channels, and as many operations as Ghost-ResNet-20.

    Inputs:
        Images of shape (N, in_channels, H, W) and any size; designed for 32x32.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1, ``width`` leaves no channel, or for
            the reasons that :class:`GhostModule` gives.

    Source: paper, experiments on CIFAR-10; width multiplier: Howard et al., "MobileNets" (arXiv
    1704.04861), section 3.3.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        in_channels: int = 3,
        ratio: int = 2,
        cheap_kernel_size: int = 1,
        drop_rate: float = 0.0,
        width: float = 1.0,
    ) -> None:
        super().__init__(drop_rate)
        ghost = partial(GhostModule, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
        stages = [(int(channels * width + 0.5), stride) for channels, stride in STAGES]
        channels_in, reduction = stages[0][0], 1
        if channels_in < 1:
            raise ValueError(f"width is {width}, which leaves no channel of {STAGES[0][0]}")
        self.conv1 = ghost(in_channels, channels_in, 3)
        for number, (channels, first_stride) in enumerate(stages, start=1):
            stage = []
            for index in range(blocks):
                stride = first_stride if index == 0 else 1
                stage.append(GhostCifarBlock(channels_in, channels, stride, ghost))
                channels_in = channels
            setattr(self, f"layer{number}", nn.SequentialCell(stage))
            reduction *= first_stride
            self.feature_info.append(
                {"chs": channels, "reduction": reduction, "name": f"layer{number}"}
            )
        self.pool = GlobalAvgPool()
        self.add_classifier(channels_in, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute maps (N, 64 width, ceil(H / 4), ceil(W / 4)) from (N, in_channels, H, W)."""
        x = self.conv1(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        return x


_create = partial(create_variant, GhostCifarResNet, VARIANTS, default_cfgs)


@register_model
def ghost_resnet20_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-20 for 32x32 images (not in the paper); options: :class:`GhostCifarResNet`."""
    return _create("ghost_resnet20_cifar", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet32_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-32 for 32x32 images (not in the paper); options: :class:`GhostCifarResNet`."""
    return _create("ghost_resnet32_cifar", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet44_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-44 for 32x32 images (not in the paper); options: :class:`GhostCifarResNet`."""
    return _create("ghost_resnet44_cifar", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet56_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-56 for 32x32 images (the paper's); options: :class:`GhostCifarResNet`."""
    return _create("ghost_resnet56_cifar", pretrained, num_classes, in_channels, **kwargs)


@register_model
def ghost_resnet110_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-ResNet-110 for 32x32 images (not in the paper); options: :class:`GhostCifarResNet`."""
    return _create("ghost_resnet110_cifar", pretrained, num_classes, in_channels, **kwargs)
