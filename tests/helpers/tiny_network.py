"""Networks that compile in a second, for tests that start the scripts many times."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["model_registry_kept", "register_plain", "register_tiny", "tiny_registered"]

_TABLES = ("_model_entrypoints", "_model_to_module", "_module_to_models")


@contextmanager
def model_registry_kept() -> Iterator[None]:
    """Take from MindCV's registry what the block registers: other tests list the registry."""
    from mindcv.models import registry

    tables = {table: copy.deepcopy(vars(registry)[table]) for table in _TABLES}
    try:
        yield
    finally:
        vars(registry).update(tables)


@contextmanager
def tiny_registered(name: str, side: int = 32) -> Iterator[str]:
    """Have the Ghost network in MindCV's registry inside the block only."""
    with model_registry_kept():
        register_tiny(name, side)
        yield name


def register_tiny(name: str, side: int = 32) -> None:
    """Register a Ghost module, a pool and a classifier with MindCV, for images of one side."""
    from mindcv.models.registry import register_model
    from mindspore import nn

    from mindcv_ghost.layers import GhostModule

    class Tiny(nn.Cell):
        def __init__(self, num_classes: int, in_channels: int, ratio: int) -> None:
            super().__init__()
            self.features = nn.SequentialCell(
                GhostModule(in_channels, 16, kernel_size=3, ratio=ratio, stride=2),
                nn.MaxPool2d(2, 2),
            )
            self.classifier = nn.Dense(16 * (side // 4) ** 2, num_classes)

        def construct(self, x):
            return self.classifier(self.features(x).flatten(start_dim=1))

    def create(pretrained=False, num_classes=1000, in_channels=3, ratio=2, **kwargs):
        return Tiny(num_classes, in_channels, ratio)

    create.__name__ = name
    register_model(create)


def register_plain(name: str, has_bn: bool) -> None:
    """Register two ordinary convolutions and a classifier, for images of any size."""
    from mindcv.models.registry import register_model
    from mindspore import nn

    def convolution(in_channels: int, stride: int) -> list[nn.Cell]:
        norm = [nn.BatchNorm2d(16)] if has_bn else []
        return [nn.Conv2d(in_channels, 16, 3, stride, has_bias=not has_bn), *norm, nn.ReLU()]

    class Plain(nn.Cell):
        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            self.layer1 = nn.SequentialCell(convolution(in_channels, 2))
            self.layer2 = nn.SequentialCell(convolution(16, 1))
            self.classifier = nn.Dense(16, num_classes)

        def construct(self, x):
            return self.classifier(self.layer2(self.layer1(x)).mean((2, 3)))

    def create(pretrained=False, num_classes=1000, in_channels=3, **kwargs):
        return Plain(num_classes, in_channels)

    create.__name__ = name
    register_model(create)
