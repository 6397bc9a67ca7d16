"""The table of all configuration keys: section, type, default, what is legal, a line of help.

Keys, types and defaults are MindCV's (0.3.0 and main, Apache-2.0), so that its recipes run
unchanged; ``table.py`` names what differs. A section is a frozen dataclass whose fields are the
rows of the table, which is also what the engine reads: ``config.train.epoch_size``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mindcv_ghost.config.auto_augment import check_auto_augment
from mindcv_ghost.config.given import Wrong
from mindcv_ghost.config.kinds import (
    Bool,
    Either,
    Float,
    Int,
    Kind,
    Nullable,
    Numbers,
    OneOrMore,
    Text,
)
from mindcv_ghost.config.mapping import Mapping, Options, Texts

__all__ = [
    "AmpConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "SystemConfig",
    "TrainConfig",
]

_FRACTION = Float(lo=0, hi=1)
_RATE = Float(lo=0, below=1)
_LEVELS = ("O0", "O1", "O2", "O3", "auto")
# create_model's own arguments, which model_args must not give a second time.
_RESERVED = {
    **{name: f"--{name}" for name in ("num_classes", "in_channels", "drop_rate")},
    **{name: f"--{name}" for name in ("drop_path_rate", "pretrained", "ema")},
    **{"model_name": "--model", "checkpoint_path": "--ckpt_path"},
}
# ghostify's arguments (surgery/ghostify.py), and how many images it may fit to.
_GHOSTIFY = {
    "ratio": Int(2),
    "cheap_kernel_size": Int(choices=(1, 3, 5, 7)),
    "where": Texts(),
    "init": Text(("random", "fit")),
    "image_size": Int(1),
    "calibration_images": Int(1),
}
_CAST_LIST = re.compile(r"[\[(]\s*(nn\.[A-Za-z]\w*\s*(,\s*(?=[\])n])|(?=[\])])))+\s*[\])]")


def _check_cast_list(text: str) -> None:
    if not _CAST_LIST.fullmatch(text):
        raise Wrong("cells of mindspore.nn, as '[nn.Conv1d, nn.Conv2d]'")


def _key(default: Any, kind: Kind, help_text: str) -> Any:
    """Make a row of the table: a dataclass field that carries its kind and its help."""
    metadata = {"kind": kind, "help": help_text}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SystemConfig:
    """How the program runs."""

    mode: int = _key(0, Int(choices=(0, 1)), "0 graph mode, 1 PyNative mode")
    distribute: bool | None = _key(
        None,
        Nullable(Bool()),
        "more than one process; the launcher decides, a contradiction is an error",
    )
    val_while_train: bool = _key(False, Bool(), "validate while training")
    val_interval: int = _key(1, Int(1), "epochs between validations")
    log_interval: int = _key(100, Int(1), "steps between log lines")
    seed: int = _key(42, Int(0), "seed of weights, order and augmentation")
    device_target: str = _key("auto", Text(("auto", "Ascend", "GPU", "CPU")), "where to compute")
    jit_level: str | None = _key(
        None,
        Nullable(Text(("O0", "O1", "O2")), "auto"),
        "graph optimisation; auto takes the device's",
    )
    native_kernels: bool = _key(
        True, Bool(), "compile operators of our own for Ghost modules on the CPU, at first use"
    )
    compile_cache: bool = _key(True, Bool(), "keep compiled graphs for the next start (CPU only)")


@dataclass(frozen=True)
class DatasetConfig:
    """Which images, and how they are read."""

    dataset: str = _key(
        "imagenet",
        Text(("imagenet", "folder", "digits", "cifar10", "cifar100", "mnist", "")),
        "which images; imagenet, folder and '' are any folder of class folders",
    )
    data_dir: str = _key("./", Text(legal="a folder"), "where the images are")
    train_split: str = _key("train", Text(legal="a name", empty=True), "folder or part to train on")
    val_split: str = _key("val", Text(legal="a name", empty=True), "folder or part to validate on")
    dataset_download: bool = _key(False, Bool(), "download mnist, cifar10 or cifar100")
    num_parallel_workers: int | None = _key(
        None, Nullable(Int(1)), "reading threads, null for one a core, which is also the most"
    )
    shuffle: bool = _key(True, Bool(), "a new order each epoch")
    num_samples: int | None = _key(None, Nullable(Int(1)), "images an epoch, null for all")
    batch_size: int = _key(128, Int(1), "images a step and device")
    drop_remainder: bool = _key(True, Bool(), "leave out the last, smaller batch")
    eval_shuffle: bool = _key(False, Bool(), "shuffle for validation")
    on_bad_image: str = _key("stop", Text(("stop", "skip")), "when an image can't be decoded")
    native_loader: bool = _key(
        True, Bool(), "make images by C++ of our own, compiled at first use, where it can"
    )
    cache_images_mb: int = _key(
        256, Int(0), "megabytes in each process for the images of a set that fits in; 0 for none"
    )


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to the images."""

    image_resize: int | tuple[int, int] = _key(
        224,
        OneOrMore(Int(1), Numbers(Int(1), (2,)), "a side of at least 1 pixel, or height and width"),
        "side of the network's input, or height and width",
    )
    scale: tuple[float, float] = _key(
        (0.08, 1.0), Numbers(_FRACTION, (2,), "pair"), "area of the random crop"
    )
    ratio: tuple[float, float] = _key(
        (0.75, 1.333), Numbers(Float(above=0), (2,), "pair"), "width by height of the random crop"
    )
    hflip: float = _key(0.5, _FRACTION, "probability of a left-right flip")
    vflip: float = _key(0.0, _FRACTION, "probability of an upside-down flip")
    color_jitter: float | tuple[float, ...] | None = _key(
        0.4,
        Nullable(
            OneOrMore(
                Float(lo=0),
                Numbers(Float(lo=0), (3, 4)),
                "a number, or 3 or 4 of them (brightness, contrast, saturation, hue), at least 0",
            )
        ),
        "strength of the colour changes; unused with auto_augment",
    )
    interpolation: str = _key(
        "bilinear",
        Text(legal="bilinear, bicubic, nearest, area or pilcubic"),
        "how images are resized",
    )
    auto_augment: str | None = _key(
        None,
        Nullable(
            Text(
                legal="randaug, autoaug, autoaugr, 3a, trivialaugwide or augmix with settings, as "
                "randaug-m7-mstd0.5",
                check=check_auto_augment,
            )
        ),
        "automatic augmentation",
    )
    aug_splits: int = _key(
        0, Int(choices=(0, 3)), "3 for batches of clean and twice augmented images"
    )
    re_prob: float = _key(0.0, _FRACTION, "probability of random erasing")
    re_scale: tuple[float, float] = _key(
        (0.02, 0.33), Numbers(_FRACTION, (2,), "pair"), "area of random erasing"
    )
    re_ratio: tuple[float, float] = _key(
        (0.3, 3.3), Numbers(Float(above=0), (2,), "pair"), "shape of random erasing"
    )
    re_value: int | str | tuple[int, int, int] = _key(
        0,
        OneOrMore(
            Either(Int(0, 255), Text(("random",))),
            Numbers(Int(0, 255), (3,)),
            "0 to 255, three of these (RGB), or random",
        ),
        "what random erasing writes",
    )
    re_max_attempts: int = _key(10, Int(1), "attempts to place an erased area")
    mean: tuple[float, ...] = _key(
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        Numbers(Float(lo=0, hi=255)),
        "mean of each channel",
    )
    std: tuple[float, ...] = _key(
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
        Numbers(Float(above=0, hi=255)),
        "standard deviation of each channel",
    )
    crop_pct: float = _key(
        0.875, Float(above=0, hi=2), "share of the side that validation sees, above 1 with a border"
    )
    mixup: float = _key(0.0, Float(lo=0), "alpha of mixup, 0 for none")
    cutmix: float = _key(0.0, Float(lo=0), "alpha of cutmix, 0 for none")
    cutmix_prob: float = _key(1.0, _FRACTION, "probability of mixup or cutmix")
    aug_repeats: int = _key(
        0, Int(0), "times an image is repeated, augmented anew; 0 and 1 for none"
    )


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and what it starts from."""

    model: str = _key("mobilenet_v2_035_224", Text(legal="a model's name"), "which network")
    num_classes: int | None = _key(
        None, Nullable(Int(1)), "classes, null for as many as the data have"
    )
    in_channels: int = _key(3, Int(1), "channels of the images")
    drop_rate: float | None = _key(None, Nullable(_RATE), "dropout before the classifier")
    drop_path_rate: float | None = _key(None, Nullable(_RATE), "stochastic depth")
    pretrained: bool = _key(False, Bool(), "start from published weights")
    ckpt_path: str = _key("", Text(legal="a file", empty=True), "start from this checkpoint")
    reset_head: bool = _key(False, Bool(), "replace a checkpoint's classifier if classes differ")
    model_args: dict[str, Any] = _key(
        {}, Mapping(_RESERVED), "further arguments of the network, over the recipe's"
    )
    ghostify: dict[str, Any] = _key(
        {}, Options(_GHOSTIFY), "put Ghost modules in place of the network's convolutions"
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept."""

    resume: str = _key(
        "",
        Text(legal="auto, a run folder or a file of its resume folder", empty=True),
        "continue a stopped run where it stopped; auto: the one in ckpt_save_dir, if there is one",
    )
    resume_opt: bool = _key(False, Bool(), "MindCV's way of continuing; use resume instead")
    save_every_steps: int | None = _key(
        None, Nullable(Int(1)), "batches between checkpoints within an epoch, null for none"
    )
    save_every_minutes: float | None = _key(
        10.0, Nullable(Float(above=0)), "minutes between checkpoints within an epoch, null for none"
    )
    keep_checkpoint_max: int = _key(10, Int(1), "how many checkpoints are kept")
    ckpt_save_dir: str = _key("./ckpt", Text(legal="a folder"), "run folder")
    ckpt_save_interval: int = _key(1, Int(1), "epochs between checkpoints")
    ckpt_save_policy: str | None = _key(
        "latest_k",
        Nullable(Text(("latest_k", "top_k"))),
        "which checkpoints are kept, null for all",
    )


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epoch_size: int = _key(90, Int(1), "epochs to train")
    dataset_sink_mode: bool = _key(False, Bool(), "feed the device from a queue, where it has one")
    ema: bool = _key(False, Bool(), "average the weights")
    ema_decay: float = _key(0.9999, _FRACTION, "decay of the average")
    clip_grad: bool = _key(False, Bool(), "clip the gradients' norm")
    clip_value: float = _key(15.0, Float(above=0), "largest norm")
    gradient_accumulation_steps: int = _key(1, Int(1), "batches that one update takes")
    sync_bn: bool = _key(False, Bool(), "batch normalisation over all devices")
    nan_patience: int = _key(
        20, Int(1), "steps in a row without usable numbers that a dynamic loss scale may skip"
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients."""

    opt: str = _key(
        "adam",
        Text(
            (
                *("sgd", "momentum", "nesterov", "adam", "adamw", "lion", "rmsprop", "adagrad"),
                *("lamb", "nadam", "adan"),
            )
        ),
        "how weights are updated",
    )
    momentum: float = _key(0.9, _FRACTION, "momentum of sgd, momentum and rmsprop")
    weight_decay: float = _key(1e-6, Float(lo=0), "decay of weights")
    use_nesterov: bool = _key(False, Bool(), "momentum as Nesterov's")
    weight_decay_filter: str = _key(
        "disable", Text(("disable", "auto", "norm_and_bias")), "which weights don't decay"
    )
    eps: float = _key(1e-10, Float(above=0), "added to rmsprop's denominator")
    layer_decay: float | None = _key(
        None, Nullable(Float(above=0, hi=1)), "factor of lr from a layer to the one before"
    )


@dataclass(frozen=True)
class SchedulerConfig:
    """The learning rate."""

    scheduler: str = _key(
        "cosine_decay",
        Text(
            (
                *("constant", "cosine_decay", "warmup_cosine_decay", "exponential_decay"),
                *("polynomial_decay", "step_decay", "multi_step_decay", "one_cycle", "cyclic"),
            )
        ),
        "shape of the learning rate",
    )
    lr: float = _key(0.001, Float(lo=0), "highest learning rate")
    min_lr: float = _key(1e-6, Float(lo=0), "least learning rate of cosine, one_cycle and cyclic")
    warmup_epochs: int = _key(3, Int(0), "epochs of linear warm-up")
    warmup_factor: float = _key(0.0, _FRACTION, "share of lr that warm-up starts from")
    decay_epochs: int = _key(100, Int(1), "epochs of a cosine, or between steps of step_decay")
    decay_rate: float = _key(0.9, Float(above=0), "factor of a step, or polynomial_decay's power")
    multi_step_decay_milestones: tuple[int, ...] = _key(
        (30, 60, 90), Numbers(Int(1), order="increasing"), "epochs of multi_step_decay's steps"
    )
    lr_epoch_stair: bool = _key(False, Bool(), "change lr once an epoch instead of every step")
    num_cycles: int = _key(1, Int(1), "cycles of cosine and cyclic")
    cycle_decay: float = _key(1.0, Float(above=0), "factor of lr from cycle to cycle")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    loss: str = _key(
        "CE", Text(("CE", "BCE", "asl_single_label", "asl_multi_label", "jsd")), "what is minimised"
    )
    label_smoothing: float = _key(0.0, _RATE, "share of a label that goes to all classes")
    aux_factor: float = _key(0.0, Float(lo=0), "weight of an auxiliary output's loss")
    reduction: str = _key("mean", Text(("mean", "sum")), "how a batch's losses become one")


@dataclass(frozen=True)
class AmpConfig:
    """Mixed precision."""

    amp_level: str = _key(
        "O0", Text(_LEVELS), "float16 in training, from O0 nowhere to O3 everywhere"
    )
    val_amp_level: str = _key("O0", Text(_LEVELS), "float16 in validation")
    amp_cast_list: str | None = _key(
        None,
        Nullable(Text(legal="cells, as '[nn.Conv1d, nn.Conv2d]'", check=_check_cast_list)),
        "cells that O1 casts to float16, or O2 leaves in float32",
    )
    loss_scale_type: str = _key(
        "fixed", Text(("fixed", "dynamic", "auto")), "how the loss is scaled"
    )
    loss_scale: float = _key(1.0, Float(lo=1), "scale, or where a dynamic one starts")
    drop_overflow_update: bool = _key(False, Bool(), "skip steps whose gradients overflow")

    @property
    def cast_classes(self) -> tuple[str, ...]:
        """Names in ``mindspore.nn`` that ``amp_cast_list`` holds.

        >>> AmpConfig(amp_cast_list="[nn.Conv1d, nn.Conv2d]").cast_classes
        ('Conv1d', 'Conv2d')
        """
        return tuple(re.findall(r"nn\.(\w+)", self.amp_cast_list or ""))


@dataclass(frozen=True)
class EvaluateConfig:
    """What validate.py does beside counting."""

    use_ema: bool = _key(False, Bool(), "validate the averaged weights of the checkpoint")
    per_class: str = _key("", Text(legal="a file", empty=True), "write a CSV with a row a class")
    confusion: str = _key("", Text(legal="a file", empty=True), "write a confusion matrix (PNG)")
