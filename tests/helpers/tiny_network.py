"""A Ghost network that compiles in a second, for tests that start the scripts many times."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["register_tiny", "tiny_registered"]

_TABLES = ("_model_entrypoints", "_model_to_module", "_module_to_models")


@contextmanager
def tiny_registered(name: str, side: int = 32) -> Iterator[str]:
    """Have it in MindCV's registry inside the block only: other tests list the registry."""
    from mindcv.models import registry

    tables = {table: copy.deepcopy(vars(registry)[table]) for table in _TABLES}
    register_tiny(name, side)
    try:
        yield name
    finally:
        vars(registry).update(tables)


def register_tiny(name: str, side: int = 32) -> None:
    """Register it with MindCV: a Ghost module, a pool and a classifier, for images of one side."""
    from mindcv.models.registry import register_model
    from mindspore import nn

    from mindcv_ghost.layers import GhostModule

    class Tiny(nn.Cell):
        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            self.features = nn.SequentialCell(
                GhostModule(in_channels, 16, kernel_size=3, stride=2), nn.MaxPool2d(2, 2)
            )
            self.classifier = nn.Dense(16 * (side // 4) ** 2, num_classes)

        def construct(self, x):
            return self.classifier(self.features(x).flatten(start_dim=1))

    def create(pretrained=False, num_classes=1000, in_channels=3, **kwargs):
        return Tiny(num_classes, in_channels)

    create.__name__ = name
    register_model(create)
