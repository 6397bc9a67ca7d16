"""MindCV's transforms, put together so that they run and can be repeated.

The lists of operations are MindCV's ``create_transforms``; the random ones among them that are
written in Python come from ``seeded``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mindspore.dataset.transforms as data_ops
from mindspore.dataset import vision

from mindcv_ghost.data.transforms.seeded import SeededOp, auto_augment, random_erasing
from mindcv_ghost.errors import DataError

__all__ = ["Augment", "TrainTransforms", "eval_transforms", "train_transforms"]

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Augment:
    """What the loaders need to know; the ``augment`` section of a Config has the same fields."""

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


@dataclass(frozen=True)
class TrainTransforms:
    """Operations in the order in which they apply.

    C++ operations and ``SeededOp`` alike. With ``splits`` 3 a batch is made of three parts (for
    AugMix's Jensen-Shannon loss): the images without ``middle``, and two times with it.
    """

    before: list
    middle: list
    after: list
    splits: int = 1

    @property
    def needs_seeds(self) -> bool:
        """Whether any operation wants a seed for each sample."""
        return any(isinstance(op, SeededOp) for op in self.before + self.middle + self.after)


def train_transforms(kind: str, augment: Augment, in_channels: int = 3) -> TrainTransforms:
    """Operations for training.

    Args:
        kind: "imagenet" (encoded images), "cifar10", "cifar100" or "mnist" (pixels).
        augment: settings; CIFAR and MNIST take only ``image_resize`` of them, as in MindCV.
        in_channels: of the network; 1 turns colour images grey.

    Raises:
        DataError: if MindCV's transforms refuse a setting.
    """
    from mindcv.data import create_transforms

    size = _size(augment.image_resize)
    if kind != "imagenet":
        if augment.aug_splits:
            raise DataError(f"aug_splits: not for {kind}, whose transforms MindCV fixes")
        ops = create_transforms(kind, image_resize=size, is_training=True)
        return TrainTransforms(_channels(kind, ops, in_channels), [], [])
    mean, std = _mean_std(augment, in_channels)
    with _refusals():
        before, middle, after = create_transforms(
            "imagenet",
            image_resize=size,
            is_training=True,
            separate=True,
            scale=tuple(augment.scale),
            ratio=tuple(augment.ratio),
            hflip=augment.hflip,
            vflip=augment.vflip,
            color_jitter=_jitter(augment.color_jitter),
            auto_augment=None,
            interpolation=augment.interpolation,
            mean=mean,
            std=std,
        )
        if augment.auto_augment:
            middle = [auto_augment(augment, size, mean)]
    if augment.re_prob > 0:
        after = [*after, random_erasing(augment)]
    after = _planes_first(_channels(kind, after, in_channels))
    if augment.aug_splits not in (0, 1, 3):
        raise DataError(f"aug_splits is {augment.aug_splits}; legal are 0 and 3 (one clean copy)")
    splits = 3 if augment.aug_splits == 3 else 1
    if splits == 3 and (augment.mixup or augment.cutmix):
        raise DataError("aug_splits with mixup or cutmix: mixing would blend the three copies")
    return TrainTransforms(before, middle, after, splits)


def eval_transforms(kind: str, augment: Augment, in_channels: int = 3) -> list:
    """Operations for evaluation: decode, resize to ``image_resize / crop_pct``, crop, normalise."""
    from mindcv.data import create_transforms

    size = _size(augment.image_resize)
    if kind != "imagenet":
        ops = create_transforms(kind, image_resize=size, is_training=False)
        return _channels(kind, ops, in_channels)
    mean, std = _mean_std(augment, in_channels)
    with _refusals():
        ops = create_transforms(
            "imagenet",
            image_resize=size,
            is_training=False,
            crop_pct=augment.crop_pct,
            mean=mean,
            std=std,
            interpolation=augment.interpolation,
        )
    return _planes_first(_channels(kind, ops, in_channels))


@contextlib.contextmanager
def _refusals():
    """Tell in one line what MindCV or MindSpore refuses by assertion or exception."""
    try:
        yield
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"the transforms can't be made of these settings: {reason}") from error


def _channels(kind: str, ops: list, in_channels: int) -> list:
    """Make colour images grey for a network of one input channel, with C++ operations alone."""
    if kind == "mnist" or in_channels == 3:
        return ops
    # Normalize and HWC2CHW want three channels, so the grey one is copied and cut out at the end.
    grey = [
        vision.ConvertColor(vision.ConvertMode.COLOR_RGB2GRAY),
        vision.ConvertColor(vision.ConvertMode.COLOR_GRAY2RGB),
    ]
    place = next(
        k for k, op in enumerate(ops) if isinstance(op, (vision.Normalize, vision.Rescale))
    )
    end = next(k for k, op in enumerate(ops) if isinstance(op, vision.HWC2CHW)) + 1
    cut = [data_ops.Slice(slice(0, 1))]
    return ops[:place] + grey + ops[place:end] + cut + ops[end:]


def _planes_first(ops: list) -> list:
    """Turn bytes from HWC to CHW before they are normalised to floats, not after: the same numbers.

    For 224x224 that is 0.3 ms of a core where 0.9 were, of the 2.4 that an image took.
    """
    for k in range(len(ops) - 1):
        normalize, turn = ops[k : k + 2]
        if isinstance(normalize, vision.Normalize) and isinstance(turn, vision.HWC2CHW):
            planar = vision.Normalize(normalize.mean, normalize.std, is_hwc=False)
            return [*ops[:k], turn, planar, *ops[k + 2 :]]
    return ops


def _size(image_resize: Any) -> int | list[int]:
    if isinstance(image_resize, Sequence):
        return [int(side) for side in image_resize]
    return int(image_resize)


def _mean_std(augment: Augment, in_channels: int) -> tuple[list[float], list[float]]:
    """Three values each; for one channel their mean, or the single value given, thrice."""
    result = []
    for key in ("mean", "std"):
        values = [float(value) for value in getattr(augment, key)]
        if len(values) not in (1, 3):
            raise DataError(f"{key} has {len(values)} values; legal are 3, or 1 for grey images")
        if in_channels == 1 or len(values) == 1:
            values = [sum(values) / len(values)] * 3
        result.append(values)
    return result[0], result[1]


def _jitter(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) else value
