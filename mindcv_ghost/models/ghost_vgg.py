"""Ghost-VGG-16 for images of 32x32 pixels.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
its experiments on CIFAR-10: Ghost-VGG-16 with s = 2..5 and d = 1, 3, 5, 7, on VGG-16 (Simonyan and
Zisserman, arXiv 1409.1556) with BN and a smaller head.

Reproduced: all 13 convolutions, including the first, are Ghost modules. The paper doesn't describe
its head. Linear layers of 512 and 10 outputs after the last pool reproduce the parameters in all
rows of its table (7.7M for s = 2, d = 3). Its operations are those of the convolutions alone.

Deviation: the maps after the last pool are averaged, so any image size from 32x32 works. At 32x32
one position is left and the average changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mindspore import Tensor, nn
from mindspore.common.initializer import HeUniform

from mindcv_ghost.layers import GhostModule, GlobalAvgPool
from mindcv_ghost.models.classifier import ImageClassifier
from mindcv_ghost.models.factory import create_variant, default_cfg
from mindcv_ghost.registry import register_model

# MindCV's `register_model` appends the entry points.
__all__ = ["GhostVGG"]

# Channels of the convolutions of layer1 ... layer5; a max pool ends each stage (VGG-16, "D").
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN_FEATURES = 512

VARIANTS: dict[str, dict[str, Any]] = {"ghost_vgg16_cifar": {}}

default_cfgs = {
    name: default_cfg(first_conv="layer1.0.primary.conv", num_classes=10, input_size=(3, 32, 32))
    for name in VARIANTS
}


class GhostVGG(ImageClassifier):
    """VGG with Ghost modules in place of convolutions, BN, and one hidden linear layer.

    Args:
        num_classes: outputs of the classifier; 0 for none (returns the hidden layer's features).
        in_channels: channels of the images.
        ratio: s in the paper, for every Ghost module.
        cheap_kernel_size: d in the paper, for every Ghost module.
        drop_rate: dropout probability before each of the two linear layers.

    Inputs:
        Images of shape (N, in_channels, H, W) with H and W at least 32; designed for 32x32.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1, or for the reasons that
            :class:`GhostModule` gives.

    Source: paper, experiments on CIFAR-10.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(drop_rate)
        ghost = partial(GhostModule, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
        channels_in = in_channels
        for number, stage in enumerate(STAGES, start=1):
            modules = []
            for channels in stage:
                modules.append(ghost(channels_in, channels, 3))
                channels_in = channels
            setattr(self, f"layer{number}", nn.SequentialCell(modules))
            setattr(self, f"pool{number}", nn.MaxPool2d(kernel_size=2, stride=2))
            self.feature_info.append(
                {"chs": channels_in, "reduction": 2 ** (number - 1), "name": f"layer{number}"}
            )
        self.pool = GlobalAvgPool()
        self.hidden = nn.Dense(
            channels_in,
            HIDDEN_FEATURES,
            weight_init=HeUniform(nonlinearity="relu"),
            bias_init="zeros",
        )
        self.relu = nn.ReLU()
        self.add_classifier(HIDDEN_FEATURES, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute maps (N, 512, H // 32, W // 32) from images (N, in_channels, H, W)."""
        x = self.pool1(self.layer1(x))
        x = self.pool2(self.layer2(x))
        x = self.pool3(self.layer3(x))
        x = self.pool4(self.layer4(x))
        x = self.pool5(self.layer5(x))
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from the maps of :meth:`forward_features`."""
        x = self.pool(x)
        if self.dropout is not None:
            x = self.dropout(x)
        x = self.relu(self.hidden(x))
        return self.classify(x)


_create = partial(create_variant, GhostVGG, VARIANTS, default_cfgs)


@register_model
def ghost_vgg16_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-VGG-16 for 32x32 images (the paper's); options: :class:`GhostVGG`."""
    return _create("ghost_vgg16_cifar", pretrained, num_classes, in_channels, **kwargs)
