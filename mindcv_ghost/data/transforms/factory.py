"""Build the lists of operations for training and evaluation.

They are those of MindCV's ``create_transforms``, except for the random operations that are written
in Python, which come from ``augmentations.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore.dataset.transforms as data_ops
from mindspore.dataset import vision

from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.transforms.augmentations import auto_augment, random_erasing
from mindcv_ghost.data.transforms.seeded import SeededOp
from mindcv_ghost.data.transforms.settings import Augment
from mindcv_ghost.errors import DataError

__all__ = ["TrainTransforms", "eval_transforms", "train_transforms"]


@dataclass(frozen=True)
class TrainTransforms:
    """Operations for training, in timm's three groups: ``primary``, ``secondary``, ``final``.

    They are applied in this order. Each group has MindSpore's operations and ``SeededOp`` objects.

    Args:
        primary: decode, crop, flip.
        secondary: change colours, or AutoAugment and its relatives.
        final: normalise, transpose to (C, H, W), random erasing.
        splits: 1, or 3 for AugMix's Jensen-Shannon loss: a batch is then each image without
            ``secondary``, and twice with it.
    """

    primary: list
    secondary: list
    final: list
    splits: int = 1

    @property
    def seeded(self) -> bool:
        """Whether an operation takes a seed for each image."""
        ops = self.primary + self.secondary + self.final
        return any(isinstance(op, SeededOp) for op in ops)


def train_transforms(kind: str, augment: Augment, in_channels: int = 3) -> TrainTransforms:
    """Build the operations for training.

    Args:
        kind: "imagenet" (encoded images), or a name in ``ARRAY_SETS`` (pixels).
        augment: settings; sets of arrays use ``image_resize``, ``auto_augment``, those of random
            erasing, and ``hflip`` where they are flipped (not MNIST: a mirrored digit isn't one).
            Their crop, mean and standard deviation are MindCV's; Fashion-MNIST's crop is CIFAR's.
        in_channels: of the network; 1 turns colour images grey.

    Raises:
        DataError: if MindCV's transforms refuse a setting.
    """
    from mindcv.data import create_transforms

    size = _size(augment.image_resize)
    if kind != "imagenet":
        return _train_arrays(kind, augment, size, in_channels)
    mean, std = _mean_std(augment, in_channels)
    with _as_data_error():
        primary, secondary, final = create_transforms(
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
            secondary = [
                auto_augment(
                    augment.auto_augment,
                    size=size,
                    mean=mean,
                    interpolation=augment.interpolation,
                )
            ]
    if augment.re_prob > 0:
        final = [*final, random_erasing(augment, in_channels)]
    final = _transpose_first(_to_channels(kind, final, in_channels))
    if augment.aug_splits not in (0, 1, 3):
        raise DataError(
            f"aug_splits is {augment.aug_splits}; legal are 0 and 3 (one clean copy, two augmented)"
        )
    splits = 3 if augment.aug_splits == 3 else 1
    if splits == 3 and (augment.mixup or augment.cutmix):
        raise DataError("aug_splits with mixup or cutmix: mixing would blend the three copies")
    return TrainTransforms(primary, secondary, final, splits)


def eval_transforms(kind: str, augment: Augment, in_channels: int = 3) -> list:
    """Build the operations for evaluation; the arguments are those of :func:`train_transforms`.

    They decode, resize to ``image_resize / crop_pct``, crop the centre and normalise.
    """
    from mindcv.data import create_transforms

    size = _size(augment.image_resize)
    if kind != "imagenet":
        return _to_channels(kind, _array_ops(kind, size), in_channels)
    mean, std = _mean_std(augment, in_channels)
    with _as_data_error():
        ops = create_transforms(
            "imagenet",
            image_resize=size,
            is_training=False,
            crop_pct=augment.crop_pct,
            mean=mean,
            std=std,
            interpolation=augment.interpolation,
        )
    return _transpose_first(_to_channels(kind, ops, in_channels))


def _train_arrays(
    kind: str, augment: Augment, size: int | list[int], in_channels: int
) -> TrainTransforms:
    if augment.aug_splits:
        raise DataError(f"aug_splits: not for --dataset {kind}, only for --dataset folder")
    primary = [op for op in _array_ops(kind, size, augment) if not _is_normalising(op)]
    final = _to_channels(
        kind, [op for op in _array_ops(kind, size) if _is_normalising(op)], in_channels
    )
    secondary = []
    if augment.auto_augment:
        layout = ARRAY_SETS[kind]
        # A grey source repeats its channel if the network has three.
        channels = in_channels if len(layout.mean) == 1 else 3
        with _as_data_error():
            secondary.append(
                auto_augment(
                    augment.auto_augment,
                    size=size,
                    mean=list(layout.byte_mean) * (3 // len(layout.mean)),
                    interpolation=augment.interpolation,
                    channels=channels,
                )
            )
    if augment.re_prob > 0:
        final.append(random_erasing(augment, in_channels))
    return TrainTransforms(primary, secondary, final)


def _array_ops(kind: str, size: int | list[int], augment: Augment | None = None) -> list:
    """List the operations on pixels: for training if settings are given, else for evaluation."""
    from mindcv.data import create_transforms

    training = augment is not None
    if kind != "fashion_mnist":
        ops = create_transforms(kind, image_resize=size, is_training=training)
    else:  # which MindCV doesn't have: MNIST's operations, cropped and flipped like CIFAR
        (mean,), (std,) = ARRAY_SETS[kind].mean, ARRAY_SETS[kind].std
        crop = [vision.RandomCrop((28, 28), (4, 4, 4, 4)), vision.RandomHorizontalFlip()]
        ops = [*(crop if training else []), vision.Resize(size), vision.Rescale(1 / 255, 0.0)]
        ops += [vision.Rescale(1 / std, -mean / std), vision.HWC2CHW()]
    if augment is None:
        return ops
    flip = vision.RandomHorizontalFlip(augment.hflip)
    return [flip if isinstance(op, vision.RandomHorizontalFlip) else op for op in ops]


def _is_normalising(op: Any) -> bool:
    return isinstance(op, (vision.Rescale, vision.Normalize, vision.HWC2CHW))


@contextlib.contextmanager
def _as_data_error() -> Iterator[None]:
    """Turn whatever MindCV or MindSpore raises for a setting into a DataError of one line."""
    try:
        yield
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"the transforms can't be built with these settings: {reason}") from error


def _to_channels(kind: str, ops: list, in_channels: int) -> list:
    """Turn colour images grey if the network has one input channel; C++ operations only."""
    if in_channels == 3 or (kind in ARRAY_SETS and len(ARRAY_SETS[kind].mean) == 1):
        return ops
    # Normalize and HWC2CHW need three channels: repeat grey, and cut one channel out at the end.
    grey = [
        vision.ConvertColor(vision.ConvertMode.COLOR_RGB2GRAY),
        vision.ConvertColor(vision.ConvertMode.COLOR_GRAY2RGB),
    ]
    start = next(
        k for k, op in enumerate(ops) if isinstance(op, (vision.Normalize, vision.Rescale))
    )
    end = next(k for k, op in enumerate(ops) if isinstance(op, vision.HWC2CHW)) + 1
    one_channel = [data_ops.Slice(slice(0, 1))]
    return ops[:start] + grey + ops[start:end] + one_channel + ops[end:]


def _transpose_first(ops: list) -> list:
    """Transpose HWC to CHW before Normalize, on bytes instead of floats; the numbers are the same.

    For 224x224 this takes 0.3 ms of a core instead of 0.9, of 2.4 ms for the whole image.
    """
    for k in range(len(ops) - 1):
        normalize, transpose = ops[k : k + 2]
        if isinstance(normalize, vision.Normalize) and isinstance(transpose, vision.HWC2CHW):
            normalize_chw = vision.Normalize(normalize.mean, normalize.std, is_hwc=False)
            return [*ops[:k], transpose, normalize_chw, *ops[k + 2 :]]
    return ops


def _size(image_resize: Any) -> int | list[int]:
    if isinstance(image_resize, Sequence):
        return [int(side) for side in image_resize]
    return int(image_resize)


def _mean_std(augment: Augment, in_channels: int) -> tuple[list[float], list[float]]:
    """Three values each. For one channel: the mean of the given values, repeated."""
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
