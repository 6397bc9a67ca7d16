"""Ghost-ResNet 20, 32, 44, 56 and 110 for images of 32x32 pixels.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
its experiments on CIFAR-10: Ghost-ResNet-56 with s = 2, on the ResNets of He et al., "Deep Residual
Learning" (arXiv 1512.03385), section 4.2. The other depths are ours, made by the same rule.

Reproduced: every convolution, the first one included, is a Ghost module; shortcuts have no weights
(option A of He et al.: every second position, and zeros for the new maps). The paper's 0.43M
parameters and 63M operations come out with cheap kernels of 1x1 (429,882 and 63.0M), and so this is
the default here; with the 3x3 of the paper's other networks it would be 0.44M and 65M.

Deviation: the average pool is global, so any size goes.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform

from mindcv_ghost.layers import GhostModule, GlobalAvgPool
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["GhostCifarBlock", "GhostCifarResNet"]

# Channels and first stride of layer1 ... layer3.
STAGES = ((16, 1), (32, 2), (64, 2))

# Blocks in each of the three stages: n in He et al.'s depth of 6n + 2.
VARIANTS = {
    "ghost_resnet20_cifar": 3,
    "ghost_resnet32_cifar": 5,
    "ghost_resnet44_cifar": 7,
    "ghost_resnet56_cifar": 9,
    "ghost_resnet110_cifar": 18,
}

default_cfgs = {
    name: {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "first_conv": "conv1.primary.conv",
        "classifier": "classifier",
    }
    for name in VARIANTS
}


class GhostCifarBlock(nn.Cell):
    """Two 3x3 Ghost modules and a shortcut without weights.

    Args:
        in_channels: maps that come in.
        channels: maps that go out, at least as many.
        stride: step of the first module and of the shortcut.
        ghost: ``ratio`` and ``cheap_kernel_size`` for both Ghost modules.

    Inputs: (N, in_channels, H, W). Outputs: (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, ghost: dict[str, int]) -> None:
        super().__init__()
        self.conv1 = GhostModule(in_channels, channels, 3, stride=stride, **ghost)
        self.conv2 = GhostModule(channels, channels, 3, act=False, **ghost)
        # Every second position, as x[:, :, ::2, ::2] takes it; its gradient MindSpore 2.8 refuses
        # on the CPU in PyNative mode ("StridedSliceGrad ... memory out of bounds").
        self.subsample = nn.MaxPool2d(kernel_size=1, stride=stride) if stride > 1 else None
        self.new_channels = channels - in_channels
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.subsample is not None:
            x = self.subsample(x)
        if self.new_channels > 0:
            # Half of the zeros on either side, as in the implementations in use.
            before = self.new_channels // 2
            zeros = ops.zeros_like(y)
            after = self.new_channels - before
            x = ops.concat((zeros[:, :before], x, zeros[:, :after]), axis=1)
        return self.relu(y + x)


class GhostCifarResNet(nn.Cell):
    """ResNet for small images whose every convolution is a Ghost module.

    Args:
        blocks: in each of the three stages.
        num_classes: outputs of the classifier; 0 for none (the pooled features go out).
        in_channels: channels of the images.
        ratio: the paper's s, of every Ghost module.
        cheap_kernel_size: the paper's d, of every Ghost module.
        drop_rate: dropout before the classifier.

    Inputs:
        Images of shape (N, in_channels, H, W), made for 32x32, of any size.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1, or as :class:`GhostModule` raises.

    Source: paper, experiments on CIFAR-10.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        in_channels: int = 3,
        ratio: int = 2,
        cheap_kernel_size: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}, but it must lie within 0 <= drop_rate < 1")
        ghost = {"ratio": ratio, "cheap_kernel_size": cheap_kernel_size}
        channels_in, reduction = STAGES[0][0], 1
        self.conv1 = GhostModule(in_channels, channels_in, 3, **ghost)
        self.feature_info = []
        for number, (channels, first_stride) in enumerate(STAGES, start=1):
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
        self.dropout = nn.Dropout(p=drop_rate) if drop_rate > 0.0 else None
        self.num_features = channels_in
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new, freshly initialised classifier; with 0 classes, none."""
        self.num_classes = num_classes
        if num_classes == 0:
            self.classifier = nn.Identity()
            return
        self.classifier = nn.Dense(
            self.num_features,
            num_classes,
            weight_init=HeUniform(mode="fan_in", nonlinearity="sigmoid"),  # as MindCV's ResNet
            bias_init="zeros",
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to maps (N, 64, ceil(H / 4), ceil(W / 4))."""
        x = self.conv1(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
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


def _create(
    name: str, pretrained: bool, num_classes: int, in_channels: int, **kwargs: Any
) -> nn.Cell:
    """Build one depth; MindCV's builder adds ``features_only`` and ``out_indices``."""
    if pretrained:
        require_weights(name, default_cfgs[name])
    return build_model_with_cfg(
        GhostCifarResNet,
        pretrained,
        default_cfgs[name],
        blocks=VARIANTS[name],
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )


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
