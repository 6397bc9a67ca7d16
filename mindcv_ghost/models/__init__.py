"""The zoo: a family a file. Importing this package registers every model in it with MindCV."""

from mindcv_ghost.models import (
    gghost_regnet,
    ghost_resnet,
    ghost_resnet_cifar,
    ghost_vgg,
    ghostnet_v2,
    ghostnet_v3,
    repghost,
)

__all__ = [
    "gghost_regnet",
    "ghost_resnet",
    "ghost_resnet_cifar",
    "ghost_vgg",
    "ghostnet_v2",
    "ghostnet_v3",
    "repghost",
]
