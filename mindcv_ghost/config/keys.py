"""The table of all configuration keys: section, type, default, legal values, a line of help.

A section is a frozen dataclass, and its fields are the rows of the table. ``run/`` reads the same
dataclasses: ``config.train.epoch_size``. :data:`KEYS` finds a row by the key's name.

Keys, types and defaults are MindCV's (0.3.0 and main, Apache-2.0), so that its recipes run
unchanged; :data:`DEVIATIONS` and :data:`ADDITIONS` list the differences. A script's own options
are sections of the same kind (:data:`SCRIPT_SECTIONS`), which recipes and other scripts don't know.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from mindcv_ghost.config.auto_augment import check_auto_augment
from mindcv_ghost.config.raw_value import IllegalValue
from mindcv_ghost.config.resume_rules import NAMES, REASONS
from mindcv_ghost.config.value_types import (
    Bool,
    Either,
    Float,
    Int,
    KeywordArguments,
    NameList,
    Nullable,
    NumberList,
    OneOrList,
    Text,
    TextList,
    TypedKeywordArguments,
    ValueType,
)

__all__ = [
    "ADDITIONS",
    "DEVIATIONS",
    "KEYS",
    "MODEL_ARGUMENTS",
    "RENAMED",
    "SCRIPT_SECTIONS",
    "SECTIONS",
    "AmpConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "DatasetConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExportConfig",
    "Key",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "SystemConfig",
    "TrainConfig",
    "keys_of",
]

_FRACTION = Float(lo=0, hi=1)
_RATE = Float(lo=0, below=1)
_LEVELS = ("O0", "O1", "O2", "O3", "auto")
# create_model's own arguments, which model_args may not repeat.
_RESERVED = {
    **{name: f"--{name}" for name in ("num_classes", "in_channels", "drop_rate")},
    **{name: f"--{name}" for name in ("drop_path_rate", "pretrained", "ema")},
    **{"model_name": "--model", "checkpoint_path": "--ckpt_path"},
}
MODEL_ARGUMENTS = KeywordArguments(_RESERVED)
"""What ``model_args`` takes."""
CHEAP_KERNEL_SIZES = (1, 3, 5, 7)
"""What ``ghostify`` takes from a recipe or a command line; in code it takes any odd size."""

# ghostify's arguments (surgery/ghostify.py), and calibration_images, how many it is fitted to.
_GHOSTIFY = {
    "ratio": Int(2),
    "cheap_kernel_size": Int(choices=CHEAP_KERNEL_SIZES),
    "where": TextList(),
    "init": Text(("random", "fit")),
    "image_size": Int(1),
    "calibration_images": Int(1),
}
_CAST_LIST = re.compile(r"[\[(]\s*(nn\.[A-Za-z]\w*\s*(,\s*(?=[\])n])|(?=[\])])))+\s*[\])]")


_WEIGHTS = (
    "a name that `mindcv-ghost weights` lists, a folder of `mindcv-ghost publish`, or "
    "URL#sha256=DIGITS"
)


def _check_cast_list(text: str) -> None:
    if not _CAST_LIST.fullmatch(text):
        raise IllegalValue("cells of mindspore.nn, as '[nn.Conv1d, nn.Conv2d]'")


def _check_weights(text: str) -> None:
    """Refuse 0 and 1, which a recipe has as integers and the command line as booleans."""
    if text in ("0", "1"):
        raise IllegalValue(f"{_WEIGHTS}; or true or false")


def _key(default: Any, value_type: ValueType, help_text: str) -> Any:
    """Return a dataclass field that is a row of the table."""
    metadata = {"type": value_type, "help": help_text}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SystemConfig:
    """Device, mode, seed and logging."""

    mode: int = _key(0, Int(choices=(0, 1)), "0 graph mode, 1 PyNative mode")
    distribute: bool | None = _key(
        None,
        Nullable(Bool()),
        "several processes; null follows the launcher, contradicting it is an error",
    )
    val_while_train: bool = _key(False, Bool(), "validate while training")
    val_interval: int = _key(1, Int(1), "epochs between validations")
    log_interval: int = _key(100, Int(1), "steps between log lines")
    seed: int = _key(42, Int(0), "seed of initial weights, order of images and augmentation")
    device_target: str = _key(
        "auto",
        Text(("auto", "Ascend", "GPU", "CPU")),
        "device; auto takes the first found of Ascend, GPU, CPU",
    )
    jit_level: str | None = _key(
        None,
        Nullable(Text(("O0", "O1", "O2")), "auto"),
        "level of graph optimisation; auto takes the device's default",
    )
    native_kernels: bool = _key(
        True, Bool(), "use this package's C++ operators on the CPU; compiled at first use"
    )
    compile_cache: bool = _key(True, Bool(), "keep compiled graphs for the next start (CPU only)")


@dataclass(frozen=True)
class DatasetConfig:
    """The data set and its loader."""

    dataset: str = _key(
        "imagenet",
        Text(
            (
                *("imagenet", "folder", "digits", "cifar10", "cifar100", "mnist"),
                *("fashion_mnist", ""),
            )
        ),
        "data set; imagenet, folder and '' stand for any folder of class folders",
    )
    data_dir: str = _key("./", Text(legal="a folder"), "where the images are")
    train_split: str = _key("train", Text(legal="a name", empty=True), "folder or part to train on")
    val_split: str = _key("val", Text(legal="a name", empty=True), "folder or part to validate on")
    dataset_download: bool = _key(
        False, Bool(), "download cifar10, cifar100, mnist or fashion_mnist"
    )
    num_parallel_workers: int | None = _key(
        None, Nullable(Int(1)), "loader threads, at most one a core; null for one a core"
    )
    shuffle: bool = _key(True, Bool(), "a new order each epoch")
    num_samples: int | None = _key(None, Nullable(Int(1)), "images per epoch, null for all")
    batch_size: int = _key(128, Int(1), "images per step and device")
    drop_remainder: bool = _key(True, Bool(), "drop the last, smaller batch")
    eval_shuffle: bool = _key(
        False, Bool(), "MindCV's key, without effect: validation keeps the set's order"
    )
    on_bad_image: str = _key("stop", Text(("stop", "skip")), "when an image can't be decoded")
    native_loader: bool = _key(
        True, Bool(), "decode and augment by this package's C++ where it can; compiled at first use"
    )
    cache_images_mb: int = _key(
        256,
        Int(0),
        "megabytes per process to keep the decoded images of a set that fits; 0 for none",
    )


@dataclass(frozen=True)
class AugmentConfig:
    """Resizing, augmentation and normalisation."""

    image_resize: int | tuple[int, int] = _key(
        224,
        OneOrList(
            Int(1), NumberList(Int(1), (2,)), "a side of at least 1 pixel, or height and width"
        ),
        "side of the network's input, or height and width",
    )
    scale: tuple[float, float] = _key(
        (0.08, 1.0),
        NumberList(_FRACTION, (2,), "pair"),
        "area of the random crop as a share of the image",
    )
    ratio: tuple[float, float] = _key(
        (0.75, 1.333),
        NumberList(Float(above=0), (2,), "pair"),
        "aspect ratio (width / height) of the random crop",
    )
    hflip: float = _key(0.5, _FRACTION, "probability of a horizontal flip")
    vflip: float = _key(0.0, _FRACTION, "probability of a vertical flip")
    color_jitter: float | tuple[float, ...] | None = _key(
        0.4,
        Nullable(
            OneOrList(
                Float(lo=0),
                NumberList(Float(lo=0), (3, 4)),
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
        0, Int(choices=(0, 3)), "3 for a clean and two augmented copies of each image"
    )
    re_prob: float = _key(0.0, _FRACTION, "probability of random erasing")
    re_scale: tuple[float, float] = _key(
        (0.02, 0.33),
        NumberList(_FRACTION, (2,), "pair"),
        "area of random erasing as a share of the image",
    )
    re_ratio: tuple[float, float] = _key(
        (0.3, 3.3), NumberList(Float(above=0), (2,), "pair"), "aspect ratio of random erasing"
    )
    re_value: int | str | tuple[int, int, int] = _key(
        0,
        OneOrList(
            Either(Int(0, 255), Text(("random",))),
            NumberList(Int(0, 255), (3,)),
            "0 to 255, three of these (RGB), or random",
        ),
        "what random erasing writes into the normalised image: 0 is the mean colour",
    )
    re_max_attempts: int = _key(10, Int(1), "attempts to place an erased area")
    mean: tuple[float, ...] = _key(
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        NumberList(Float(lo=0, hi=255)),
        "mean of each channel",
    )
    std: tuple[float, ...] = _key(
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
        NumberList(Float(above=0, hi=255)),
        "standard deviation of each channel",
    )
    crop_pct: float = _key(
        0.875,
        Float(above=0, hi=2),
        "side of validation's centre crop as a share of the image's; above 1 adds a border",
    )
    mixup: float = _key(0.0, Float(lo=0), "alpha of mixup, 0 for none")
    cutmix: float = _key(0.0, Float(lo=0), "alpha of cutmix, 0 for none")
    cutmix_prob: float = _key(1.0, _FRACTION, "probability of mixup or cutmix")
    aug_repeats: int = _key(
        0,
        Int(0),
        "repeated augmentation: times an image comes in a row, 0 and 1 for once",
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network and its initial weights."""

    model: str = _key("mobilenet_v2_035_224", Text(legal="a model's name"), "network")
    num_classes: int | None = _key(
        None, Nullable(Int(1)), "number of classes, null for that of the data"
    )
    in_channels: int = _key(3, Int(1), "channels of the images")
    drop_rate: float | None = _key(None, Nullable(_RATE), "dropout rate before the classifier")
    drop_path_rate: float | None = _key(None, Nullable(_RATE), "drop rate of stochastic depth")
    pretrained: bool | str = _key(
        False,
        Either(
            Bool(),
            Text(legal=_WEIGHTS, check=_check_weights),
        ),
        "start from published weights; true is MindCV's, where it has some",
    )
    ckpt_path: str = _key("", Text(legal="a file", empty=True), "start from this checkpoint")
    reset_head: bool = _key(
        False, Bool(), "initialise the classifier anew if the checkpoint's has other classes"
    )
    model_args: dict[str, Any] = _key(
        {}, MODEL_ARGUMENTS, "further arguments of the network, merged by name"
    )
    ghostify: dict[str, Any] = _key(
        {},
        TypedKeywordArguments(_GHOSTIFY),
        "replace the network's convolutions by Ghost modules",
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints: where, how often and how many; resuming."""

    resume: str = _key(
        "",
        Text(legal="auto, a run folder or a file of its resume folder", empty=True),
        "run to resume; auto takes the one in ckpt_save_dir, if there is one",
    )
    resume_anyway: tuple[str, ...] = _key(
        (),
        NameList(NAMES, REASONS, "keys that a run can change"),
        "keys that a resumed run may change though its results depend on them",
    )
    resume_opt: bool = _key(False, Bool(), "MindCV's way to resume; use resume instead")
    save_every_steps: int | None = _key(
        None, Nullable(Int(1)), "batches between states saved within an epoch, null for none"
    )
    save_every_minutes: float | None = _key(
        10.0,
        Nullable(Float(above=0)),
        "minutes between states saved within an epoch, null for none",
    )
    keep_checkpoint_max: int = _key(10, Int(1), "number of checkpoints to keep")
    ckpt_save_dir: str = _key("./ckpt", Text(legal="a folder"), "run folder")
    ckpt_save_interval: int = _key(1, Int(1), "epochs between checkpoints")
    ckpt_save_policy: str | None = _key(
        "latest_k",
        Nullable(Text(("latest_k", "top_k"))),
        "which checkpoints to keep, null for all",
    )


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epoch_size: int = _key(90, Int(1), "epochs to train")
    dataset_sink_mode: bool = _key(
        False, Bool(), "sink mode: the device fetches batches from its queue, where it has one"
    )
    ema: bool = _key(False, Bool(), "keep an exponential moving average (EMA) of the weights")
    ema_decay: float = _key(0.9999, _FRACTION, "decay of the EMA")
    clip_grad: bool = _key(False, Bool(), "clip the gradients' global norm")
    clip_value: float = _key(15.0, Float(above=0), "largest global norm")
    gradient_accumulation_steps: int = _key(1, Int(1), "batches per update")
    sync_bn: bool = _key(False, Bool(), "compute batch-normalisation statistics over all devices")
    nan_patience: int = _key(
        20,
        Int(1),
        "skipped updates in a row that stop training; those that lower the loss scale don't count",
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer."""

    opt: str = _key(
        "adam",
        Text(
            (
                *("sgd", "momentum", "nesterov", "adam", "adamw", "lion", "rmsprop", "adagrad"),
                *("lamb", "nadam", "adan"),
            )
        ),
        "optimizer",
    )
    momentum: float = _key(0.9, _FRACTION, "momentum of sgd, momentum and rmsprop")
    weight_decay: float = _key(1e-6, Float(lo=0), "weight decay")
    use_nesterov: bool = _key(False, Bool(), "Nesterov momentum")
    weight_decay_filter: str = _key(
        "disable",
        Text(("disable", "auto", "norm_and_bias")),
        "which parameters have no weight decay",
    )
    eps: float = _key(1e-10, Float(above=0), "added to rmsprop's denominator")
    layer_decay: float | None = _key(
        None,
        Nullable(Float(above=0, hi=1)),
        "layer-wise decay: factor of lr from a layer to the one before it",
    )


@dataclass(frozen=True)
class SchedulerConfig:
    """The learning-rate schedule."""

    scheduler: str = _key(
        "cosine_decay",
        Text(
            (
                *("constant", "cosine_decay", "warmup_cosine_decay", "exponential_decay"),
                *("polynomial_decay", "step_decay", "multi_step_decay", "one_cycle", "cyclic"),
            )
        ),
        "learning-rate schedule",
    )
    lr: float = _key(0.001, Float(lo=0), "highest learning rate")
    min_lr: float = _key(1e-6, Float(lo=0), "lowest learning rate of cosine, one_cycle and cyclic")
    warmup_epochs: int = _key(3, Int(0), "epochs of linear warm-up")
    warmup_factor: float = _key(0.0, _FRACTION, "warm-up starts at this share of lr")
    decay_epochs: int = _key(
        100, Int(1), "epochs of a cosine cycle, or between steps of step_decay"
    )
    decay_rate: float = _key(
        0.9, Float(above=0), "factor of lr at a step, or polynomial_decay's power"
    )
    multi_step_decay_milestones: tuple[int, ...] = _key(
        (30, 60, 90),
        NumberList(Int(1), order="increasing"),
        "epochs after the warm-up at which multi_step_decay lowers lr",
    )
    lr_epoch_stair: bool = _key(False, Bool(), "change lr once an epoch instead of every step")
    num_cycles: int = _key(1, Int(1), "cycles of cosine and cyclic")
    cycle_decay: float = _key(1.0, Float(above=0), "factor of lr from one cycle to the next")


@dataclass(frozen=True)
class LossConfig:
    """The loss."""

    loss: str = _key(
        "CE", Text(("CE", "BCE", "asl_single_label", "asl_multi_label", "jsd")), "loss function"
    )
    label_smoothing: float = _key(0.0, _RATE, "share of a label that is spread over all classes")
    aux_factor: float = _key(0.0, Float(lo=0), "weight of an auxiliary output's loss")
    reduction: str = _key("mean", Text(("mean", "sum")), "reduction of the losses of a batch")


@dataclass(frozen=True)
class DistillConfig:
    """Distillation: a trained network, the teacher, adds a loss of its own."""

    teacher: str = _key(
        "", Text(legal="a model's name", empty=True), "trained network to learn from"
    )
    teacher_ckpt: str = _key("", Text(legal="a file", empty=True), "the teacher's weights")
    teacher_ema: bool = _key(False, Bool(), "take the EMA weights of teacher_ckpt")
    teacher_args: dict[str, Any] = _key(
        {}, MODEL_ARGUMENTS, "further arguments of the teacher, merged by name"
    )
    distill_alpha: float | None = _key(
        None,
        Nullable(_FRACTION),
        "weight of the loss against the teacher, 1 - distill_alpha that of the labels'; null "
        "for 0.5",
    )
    distill_temperature: float | None = _key(
        None,
        Nullable(Float(above=0, hi=1000)),
        "divides the logits of both networks before they are compared; null for 1",
    )

    @property
    def alpha(self) -> float:
        """The weight of the soft loss; the default is that of MindCV's ``DistillLossCell``."""
        return 0.5 if self.distill_alpha is None else self.distill_alpha

    @property
    def temperature(self) -> float:
        """The temperature; the default is timm's and ``DistillLossCell``'s."""
        return 1.0 if self.distill_temperature is None else self.distill_temperature


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
        "fixed",
        Text(("fixed", "dynamic", "auto")),
        "how the loss is scaled against underflow; auto: dynamic with amp_level O2, from 2^24 or "
        "from loss_scale if that is above 1, else not at all",
    )
    loss_scale: float = _key(
        1.0, Float(lo=1), "loss scale, or the initial one of a dynamic loss scale"
    )
    drop_overflow_update: bool = _key(False, Bool(), "skip steps whose gradients overflow")

    @property
    def cast_classes(self) -> tuple[str, ...]:
        """The classes of ``mindspore.nn`` that ``amp_cast_list`` names.

        >>> AmpConfig(amp_cast_list="[nn.Conv1d, nn.Conv2d]").cast_classes
        ('Conv1d', 'Conv2d')
        """
        return tuple(re.findall(r"nn\.(\w+)", self.amp_cast_list or ""))


@dataclass(frozen=True)
class EvaluateConfig:
    """What validate.py loads and writes."""

    use_ema: bool = _key(False, Bool(), "validate the checkpoint's EMA weights")
    per_class: str = _key(
        "", Text(legal="a file", empty=True), "CSV file to write, with a row per class"
    )
    confusion: str = _key(
        "", Text(legal="a file", empty=True), "PNG file to write, a confusion matrix"
    )
    onnx: str = _key(
        "", Text(legal="an .onnx file", empty=True), "exported file to validate, not a checkpoint"
    )


_FILE_FORMATS = ("onnx", "mindir")
_DYNAMIC = ("batch", "size")


@dataclass(frozen=True)
class ExportConfig:
    """What export.py writes, and how it checks it."""

    format: tuple[str, ...] = _key(
        ("onnx",), NameList(_FILE_FORMATS, {}, "onnx, mindir or both"), "files to write"
    )
    output: str = _key("./exported", Text(legal="a folder"), "folder to write them into")
    dynamic: tuple[str, ...] = _key(
        ("batch",),
        NameList(_DYNAMIC, {}, "batch; batch,size; or none"),
        "what may differ from call to call: the number of images, and their size",
    )
    fp16: bool = _key(False, Bool(), "write the weights of the ONNX file in float16")
    embed_preprocess: bool = _key(
        False, Bool(), "the ONNX file takes pictures (bytes) of any size and prepares them itself"
    )
    verify_images: int | None = _key(
        500,
        Nullable(Int(0), "all"),
        "the most images of the validation set, spread evenly over it, that the files are run on; "
        "0 for random numbers instead",
    )
    int8: str = _key(
        "", Text(legal="a folder", empty=True), "quantise with this folder's images, as well"
    )
    int8_report: str = _key(
        "", Text(legal="a file", empty=True), "CSV or JSON file to write, int8's cost by layer"
    )
    max_drop: float = _key(
        1.0, Float(lo=0, hi=100), "percentage points of top-1 that int8 may lose"
    )
    runtime: str = _key(
        "onnxruntime", Text(("onnxruntime", "openvino")), "what int8 is to be fast in"
    )
    web: str = _key(
        "", Text(legal="a folder", empty=True), "folder for a web page that runs the ONNX file"
    )
    triton: str = _key(
        "", Text(legal="a folder", empty=True), "folder for a model repository of NVIDIA Triton"
    )


SECTIONS: dict[str, type] = {
    "system": SystemConfig,
    "dataset": DatasetConfig,
    "augment": AugmentConfig,
    "model": ModelConfig,
    "checkpoint": CheckpointConfig,
    "train": TrainConfig,
    "optimizer": OptimizerConfig,
    "scheduler": SchedulerConfig,
    "loss": LossConfig,
    "distill": DistillConfig,
    "amp": AmpConfig,
    "evaluate": EvaluateConfig,
}
"""The sections of a recipe."""

SCRIPT_SECTIONS: dict[str, dict[str, type]] = {"export": {"export": ExportConfig}}
"""Script -> sections with the options that it alone has."""


@dataclass(frozen=True)
class Key:
    """A row of the table.

    Attributes:
        name: as in a recipe and, after two dashes, on the command line.
        section: a name in :data:`SECTIONS` or of a script's own ones.
        type: parses the key's value.
        default: the value of a key that isn't set.
        help: a line for ``--help``.
    """

    name: str
    section: str
    type: ValueType
    default: Any
    help: str


def _rows(sections: dict[str, type]) -> dict[str, Key]:
    return {
        row.name: Key(
            row.name, section, row.metadata["type"], getattr(cls(), row.name), row.metadata["help"]
        )
        for section, cls in sections.items()
        for row in dataclasses.fields(cls)
    }


KEYS = _rows(SECTIONS)
"""The keys of recipes, by name."""


def keys_of(script: str) -> dict[str, Key]:
    """Return a script's options by name: its own, and the keys of recipes.

    Args:
        script: "train", "validate" or "export".
    """
    return {**_rows(SCRIPT_SECTIONS.get(script, {})), **KEYS}


DEVIATIONS = {
    "device_target": "auto instead of Ascend: the first device found of Ascend, GPU, CPU",
    "num_parallel_workers": "one a core instead of 8: MindSpore refuses more than there are cores",
    "distribute": "unset instead of false: the launcher decides",
    "dataset_sink_mode": "false instead of true: sink mode hasn't been tried on a device yet",
}
"""Keys whose default isn't MindCV's, and why."""

ADDITIONS = (
    *("jit_level", "compile_cache", "native_kernels", "on_bad_image", "reset_head", "model_args"),
    *("ghostify", "sync_bn", "native_loader", "cache_images_mb"),
    *("resume", "resume_anyway", "save_every_steps", "save_every_minutes", "nan_patience"),
    *("teacher", "teacher_ckpt", "teacher_ema", "teacher_args"),
    *("distill_alpha", "distill_temperature"),
    *("use_ema", "per_class", "confusion", "onnx"),
)
"""Keys that MindCV doesn't have."""

RENAMED = {
    "filter_bias_and_bn": (
        "weight_decay_filter",
        {"true": "norm_and_bias", "false": "disable"},
    ),
    "dynamic_loss_scale": ("loss_scale_type", {"true": "dynamic", "false": "fixed"}),
}
"""Keys of older MindCV -> today's key, and what their values mean there.

MindCV 0.3's own parser refuses them, but some recipes still have them (``fastvit_t8_ascend.yaml``
of main does).
"""
