"""The model zoo: one file a family, registered with MindCV when this package is imported.

MindCV's ``create_model(name, ...)`` calls a family's entry point, which returns a network that maps
images (N, C, H, W) to logits (N, num_classes). Start reading with ``ghost_resnet``. The families
share ``classifier`` (the networks' base class), ``factory`` (creates a network from a table's row),
``ghostnet_frame`` (GhostNet's stem, stages and head) and ``papers`` (each family's paper).
docs/add_a_model.md shows how to add a family.
"""

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
