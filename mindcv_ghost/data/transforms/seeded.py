"""Random operations in Python whose draws can be repeated.

MindCV's AutoAugment, RandAugment, AugMix, TrivialAugment and Mixup and MindSpore's RandomErasing
draw from ``random`` and ``numpy.random``, which the pipeline's threads share, so that no two runs
agree as soon as two threads work. Here MindCV's modules are loaded a second time with generators
of their own, one a thread, reseeded for each sample (for each batch by Mixup) from its place in
the run.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import random
import threading
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore.dataset import vision

from mindcv_ghost.errors import DataError

if TYPE_CHECKING:
    from mindcv_ghost.data.transforms.transforms import Augment

__all__ = ["Mix", "SeededOp", "auto_augment", "random_erasing"]


def auto_augment(augment: Augment, size: int | list[int], mean: list[float]) -> SeededOp:
    """MindCV's AutoAugment, RandAugment, TrivialAugment or AugMix by its configuration string."""
    module, draws = _isolated("mindcv.data.auto_augment")
    policy = augment.auto_augment
    shortest = min(size) if isinstance(size, list) else size
    settings = {
        "translate_const": int(shortest * 0.45),
        "img_mean": tuple(min(255, round(value)) for value in mean),
        "interpolation": getattr(
            vision.Inter, augment.interpolation.upper(), vision.Inter.BILINEAR
        ),
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
            return SeededOp(build(policy, settings), draws)
    raise DataError(
        f"auto_augment: there is no {policy!r}. Legal start with {', '.join(builders)}, "
        "e.g. randaug-m9-mstd0.5"
    )


def random_erasing(augment: Augment) -> SeededOp:
    """Random erasing by the ``re_`` settings."""
    draws = _Draws()
    return SeededOp(_Erasing(augment, draws), draws)


class _Draws(threading.local):
    """One thread's random generators, in place of those that ``random`` and NumPy share."""

    def __init__(self):
        self.python = random.Random(0)
        self.numpy = np.random.RandomState(0)

    def seed(self, value: int) -> None:
        self.python.seed(value)
        self.numpy.seed(value)


class _Erasing:
    """Random erasing of a normalised image (C, H, W), as MindSpore's ``RandomErasing`` does it.

    That one is a Python operation too, but draws from the generators that all threads share.
    """

    def __init__(self, augment: Augment, draws: _Draws):
        self._augment, self._draws = augment, draws
        value = augment.re_value
        self._noise = value in ("random", "pixel", "rand")
        if not self._noise:
            try:
                self._value = np.array(value, np.float32).reshape(-1, 1, 1)
            except ValueError:
                raise DataError(
                    f"re_value is {value!r}; legal are a number, three numbers, or random"
                ) from None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        draw, augment = self._draws.python, self._augment
        if draw.random() >= augment.re_prob:
            return image
        height, width = image.shape[1:]
        for _ in range(augment.re_max_attempts):
            area = draw.uniform(*augment.re_scale) * height * width
            ratio = draw.uniform(*augment.re_ratio)
            w = round(math.sqrt(area * ratio))
            h = round(w / ratio)
            if h < height and w < width:
                top, left = draw.randint(0, height - h), draw.randint(0, width - w)
                value = self._value if not self._noise else None
                if value is None:
                    value = self._draws.numpy.normal(size=(image.shape[0], h, w))
                image = image.copy()
                image[:, top : top + h, left : left + w] = value
                return image
        return image


class _Redirect(ModuleType):
    """A module some of whose names are taken from this thread's generators."""

    def __init__(self, name: str, lookup: Callable[[str], Any]):
        super().__init__(name)
        self.__dict__["_lookup"] = lookup

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_lookup"](name)


@functools.cache
def _isolated(name: str) -> tuple[ModuleType, _Draws]:
    """A second copy of a module whose ``random`` and ``np.random`` belong to its thread.

    The module that others import stays as it is.
    """
    draws = _Draws()
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = _Redirect("numpy.random", lambda attribute: getattr(draws.numpy, attribute))
    module.np = _Redirect(
        "numpy", lambda attribute: drawn if attribute == "random" else getattr(np, attribute)
    )
    module.random = _Redirect("random", lambda attribute: getattr(draws.python, attribute))
    return module, draws


class SeededOp:
    """A Python operation on one image whose draws depend on the seed it is given."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray], draws: _Draws):
        self._op, self._draws = op, draws

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        self._draws.seed(int(seed) & 0xFFFFFFFF)
        return self._op(image)

    def __deepcopy__(self, memo: dict) -> SeededOp:
        return self  # MindSpore copies a pipeline for each iterator; a thread's state can't be


class Mix:
    """MindCV's mixup and cutmix over a batch; any batch size, seeded batch by batch.

    An image is mixed with its mirror image in the batch; the middle one of an odd batch with
    itself.

    Args:
        mixup, cutmix: the parameters of the two beta distributions; 0 turns one off.
        prob: probability that a batch is mixed at all.
        num_classes: width of the labels that come out.
    """

    def __init__(self, *, mixup: float, cutmix: float, prob: float, num_classes: int):
        module, self._draws = _isolated("mindcv.data.mixup")
        self._num_classes, self._target = num_classes, module.mixup_target
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
        """Images (N, C, H, W) and labels (N,) to the same images mixed and labels (N, classes)."""
        self._draws.seed(int(seed) & 0xFFFFFFFF)
        images = np.array(images, dtype=np.float32)
        share = self._mixup._mix_batch(images)
        labels = self._target(labels, self._num_classes, share, 0.0)
        return images, labels.astype(np.float32)

    def __deepcopy__(self, memo: dict) -> Mix:
        return self
