"""The settings of the transforms."""

from __future__ import annotations

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
