"""Random augmentations in Python: AutoAugment and its relatives, random erasing, mixup, cutmix.

The first and the last are MindCV's own code; random erasing follows MindSpore's. All of them take
their random numbers from a seed that comes with each image or batch (``seeded.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore.dataset import vision

from mindcv_ghost.data.transforms.seeded import (
    SeededOp,
    ThreadGenerators,
    module_with_own_generators,
)
from mindcv_ghost.data.transforms.settings import Augment
from mindcv_ghost.errors import DataError

__all__ = ["MixupCutmix", "auto_augment", "random_erasing"]


def auto_augment(
    policy: str,
    *,
    size: int | list[int],
    mean: list[float],
    interpolation: str,
    channels: int = 3,
) -> SeededOp:
    """MindCV's AutoAugment, RandAugment, TrivialAugment or AugMix.

    Args:
        policy: MindCV's configuration string, e.g. "randaug-m9-mstd0.5".
        size: of the images, in pixels: one side or (height, width).
        mean: of the three channels; fills what is moved in from outside of the image.
        interpolation: e.g. "bilinear".
        channels: of the images. MindCV's operations need three: a grey image is repeated before
            them, and the first channel is kept.

    Returns:
        An operation on uint8 (H, W, channels).

    Raises:
        DataError: if there is no such policy.
    """
    module, generators = module_with_own_generators("mindcv.data.auto_augment")
    shortest = min(size) if isinstance(size, list) else size
    settings: dict[str, Any] = {
        "translate_const": int(shortest * 0.45),
        "img_mean": tuple(min(255, round(value)) for value in mean),
        "interpolation": getattr(vision.Inter, interpolation.upper(), vision.Inter.BILINEAR),
    }
    builders = {
        "randaug": module.rand_augment_transform,
        "autoaug": module.auto_augment_transform,
        "3a": module.auto_augment_transform,
        "trivialaugwide": module.trivial_augment_wide_transform,
        "augmix": module.augment_and_mix_transform,
    }
    for start, build in builders.items():
        if policy.startswith(start):
            if start == "augmix":
                settings["translate_pct"] = 0.3
            operation = build(policy, settings)
            return SeededOp(operation if channels == 3 else _on_grey(operation), generators)
    raise DataError(
        f"auto_augment: there is no {policy!r}. A policy starts with {', '.join(builders)}, "
        "e.g. randaug-m9-mstd0.5"
    )


def _on_grey(operation: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def on_grey(image: np.ndarray) -> np.ndarray:
        return np.asarray(operation(np.repeat(image, 3, axis=2)))[..., :1]

    return on_grey


def random_erasing(augment: Augment, channels: int = 3) -> SeededOp:
    """Random erasing by the ``re_`` settings: an operation on float32 (C, H, W).

    Args:
        augment: the settings.
        channels: of the images.

    Raises:
        DataError: if ``re_value`` is neither a number, one for each channel, nor "random".
    """
    generators = ThreadGenerators()
    return SeededOp(_RandomErasing(augment, channels, generators), generators)


class _RandomErasing:
    """Random erasing as MindSpore's ``RandomErasing`` does it.

    MindSpore's is written in Python, too, but draws from the global generators.
    """

    def __init__(self, augment: Augment, channels: int, generators: ThreadGenerators):
        self._augment, self._generators = augment, generators
        value = augment.re_value
        self._value: np.ndarray | None = None  # None: noise
        if value not in ("random", "pixel", "rand"):
            legal = {1: "one number"}.get(channels, f"one number, {channels} numbers")
            problem = DataError(
                f"re_value is {value!r}; legal for images of {channels} channel"
                f"{'s' if channels > 1 else ''} are {legal}, or random"
            )
            try:
                self._value = np.array(value, np.float32).reshape(-1, 1, 1)
            except ValueError:
                raise problem from None
            if len(self._value) not in (1, channels):
                raise problem

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Erase a rectangle of a normalised image (C, H, W), with probability ``re_prob``."""
        random, augment = self._generators.python, self._augment
        if random.random() >= augment.re_prob:
            return image
        height, width = image.shape[1:]
        for _ in range(augment.re_max_attempts):
            area = random.uniform(*augment.re_scale) * height * width
            ratio = random.uniform(*augment.re_ratio)
            w = round(math.sqrt(area * ratio))
            h = round(w / ratio)
            if h < height and w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                image = image.copy()
                image[:, top : top + h, left : left + w] = (
                    self._generators.numpy.normal(size=(image.shape[0], h, w))
                    if self._value is None
                    else self._value
                )
                return image
        return image


class MixupCutmix:
    """MindCV's mixup and cutmix over a batch of any size, with a seed for each batch.

    Image ``k`` of ``N`` is mixed with image ``N - 1 - k``; the middle one of an odd batch is mixed
    with itself.

    Args:
        mixup: parameter of mixup's beta distribution; 0 turns it off.
        cutmix: parameter of cutmix's beta distribution; 0 turns it off.
        prob: probability that a batch is mixed at all.
        num_classes: width of the labels that come out.
    """

    def __init__(self, *, mixup: float, cutmix: float, prob: float, num_classes: int):
        module, self._generators = module_with_own_generators("mindcv.data.mixup")
        self._num_classes, self._mixup_target = num_classes, module.mixup_target
        self._mixup = module.Mixup(
            mixup_alpha=mixup,
            cutmix_alpha=cutmix,
            prob=prob,
            switch_prob=0.5,
            label_smoothing=0.0,  # the loss smooths
            num_classes=num_classes,
        )

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mix images (N, C, H, W) and labels (N,); the labels become (N, num_classes)."""
        self._generators.seed(seed)
        images = np.array(images, dtype=np.float32)
        weight = self._mixup._mix_batch(images)
        labels = self._mixup_target(labels, self._num_classes, weight, 0.0)
        return images, labels.astype(np.float32)

    def __deepcopy__(self, memo: dict) -> MixupCutmix:
        return self  # see SeededOp
