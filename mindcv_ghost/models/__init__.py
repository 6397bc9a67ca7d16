"""The zoo: a family a file. Importing this package registers every model in it with MindCV."""

from mindcv_ghost.models import gghost_regnet, ghost_resnet, ghost_resnet_cifar, ghost_vgg

__all__ = ["gghost_regnet", "ghost_resnet", "ghost_resnet_cifar", "ghost_vgg"]
