"""The settings of the transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Augment"]

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Augment:
    """Settings of the transforms, named as the keys of MindCV's recipes."""

    image_resize: int | tuple[int, int] = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.333)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | tuple[float, ...] | None = 0.4
    interpolation: str = "bilinear"
    auto_augment: str | None = None
    aug_splits: int = 0
    re_prob: float = 0.0
    re_scale: tuple[float, float] = (0.02, 0.33)
    re_ratio: tuple[float, float] = (0.3, 3.3)
    re_value: Any = 0
    re_max_attempts: int = 10
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    crop_pct: float = 0.875
    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_prob: float = 1.0
    aug_repeats: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        size = self.image_resize
        height, width = size if isinstance(size, Sequence) else (size, size)
        return int(height), int(width)

    @property
    def eval_resize(self) -> int | tuple[int, int]:
        """What evaluation resizes to before its centre crop: the short side, or height and width.

        As in MindCV, only a square input keeps the image's aspect.
        """
        height, width = self.size
        if height == width:
            return math.floor(height / self.crop_pct)
        return int(height / self.crop_pct), int(width / self.crop_pct)
