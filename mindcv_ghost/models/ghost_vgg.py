"""Ghost-VGG-16 for images of 32x32 pixels.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020 (arXiv 1911.11907),
its experiments on CIFAR-10: Ghost-VGG-16 with s = 2..5 and d = 1, 3, 5, 7, on VGG-16 (Simonyan and
Zisserman, arXiv 1409.1556) with BN and a smaller head.

Reproduced: all 13 convolutions, the first one included, are Ghost modules. The paper doesn't print
its head; with linear layers of 512 and 10 outputs behind the last pool, the parameters of all its
rows come out (7.7M for s = 2, d = 3), and its operations are those of the convolutions alone.

Deviation: the maps behind the last pool are averaged, so any size from 32x32 on goes; at 32x32 one
position is left and the average changes nothing.
"""

from __future__ import annotations

from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import Tensor, nn
from mindspore.common.initializer import HeUniform

from mindcv_ghost.layers import GhostModule, GlobalAvgPool
from mindcv_ghost.models.pretrained import require_weights
from mindcv_ghost.registry import register_model

# MindCV's decorator appends the entry points.
__all__ = ["GhostVGG"]

# Channels of the convolutions of layer1 ... layer5, each stage closed by a max pool (VGG-16, "D").
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN_FEATURES = 512

default_cfgs = {
    "ghost_vgg16_cifar": {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "first_conv": "layer1.0.primary.conv",
        "classifier": "classifier",
    },
}


class GhostVGG(nn.Cell):
    """VGG whose convolutions are Ghost modules, with BN and one hidden linear layer.

    Args:
        num_classes: outputs of the classifier; 0 for none (the hidden layer's features go out).
        in_channels: channels of the images.
        ratio: the paper's s, of every Ghost module.
        cheap_kernel_size: the paper's d, of every Ghost module.
        drop_rate: dropout before either linear layer.

    Inputs:
        Images of shape (N, in_channels, H, W), made for 32x32, at least as large.

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1, or as :class:`GhostModule` raises.

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
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}, but it must lie within 0 <= drop_rate < 1")
        ghost = {"ratio": ratio, "cheap_kernel_size": cheap_kernel_size}
        # In the order of use and each used once: MindCV's FeatureExtractWrapper relies on it.
        self.feature_info = []
        channels_in = in_channels
        for number, stage in enumerate(STAGES, start=1):
            modules = []
            for channels in stage:
                modules.append(GhostModule(channels_in, channels, 3, **ghost))
                channels_in = channels
            setattr(self, f"layer{number}", nn.SequentialCell(modules))
            setattr(self, f"pool{number}", nn.MaxPool2d(kernel_size=2, stride=2))
            self.feature_info.append(
                {"chs": channels_in, "reduction": 2 ** (number - 1), "name": f"layer{number}"}
            )
        self.pool = GlobalAvgPool()
        self.dropout = nn.Dropout(p=drop_rate) if drop_rate > 0.0 else None
        self.hidden = nn.Dense(
            channels_in,
            HIDDEN_FEATURES,
            weight_init=HeUniform(nonlinearity="relu"),
            bias_init="zeros",
        )
        self.relu = nn.ReLU()
        self.num_features = HIDDEN_FEATURES
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
        """Images (N, in_channels, H, W) to maps (N, 512, H // 32, W // 32)."""
        x = self.pool1(self.layer1(x))
        x = self.pool2(self.layer2(x))
        x = self.pool3(self.layer3(x))
        x = self.pool4(self.layer4(x))
        x = self.pool5(self.layer5(x))
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """Maps of :meth:`forward_features` to logits (N, num_classes)."""
        x = self.pool(x)
        if self.dropout is not None:
            x = self.dropout(x)
        x = self.relu(self.hidden(x))
        if self.dropout is not None:
            x = self.dropout(x)
        return self.classifier(x)

    def construct(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


@register_model
def ghost_vgg16_cifar(
    pretrained: bool = False, num_classes: int = 10, in_channels: int = 3, **kwargs: Any
) -> nn.Cell:
    """Ghost-VGG-16 for 32x32 images (the paper's); options: :class:`GhostVGG`."""
    default_cfg = default_cfgs["ghost_vgg16_cifar"]
    if pretrained:
        require_weights("ghost_vgg16_cifar", default_cfg)
    # MindCV's builder adds features_only and out_indices.
    return build_model_with_cfg(
        GhostVGG,
        pretrained,
        default_cfg,
        num_classes=num_classes,
        in_channels=in_channels,
        **kwargs,
    )
