"""What a resumed run may change: every setting is in exactly one group.

=================== ==============================================================================
group               a change of its settings
=================== ==============================================================================
``FREE``            is accepted: the weights don't depend on it
``INEXACT``         is accepted, with a warning that the last bits may differ
``BETWEEN_EPOCHS``  is accepted at the end of an epoch: it changes which images make a batch
``epoch_size``      is accepted: the run gets longer or shorter, though not shorter than it is
``LENGTHS``         is accepted together with ``epoch_size``, else as ``NAMED``
``NAMED``           is accepted if ``resume_anyway`` names it
``NAMED_BETWEEN``   the same, at the end of an epoch: it changes the order of images
``IMPOSSIBLE``      is refused: the state doesn't fit the run
``START``           is refused if it asks for another start than the run had; what isn't given any
                    more is kept, because a resumed run doesn't read those weights again
=================== ==============================================================================

A setting is a key of the recipe or a fact of the run, such as the number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mindcv_ghost.config.raw_value import quoted

__all__ = [
    "FACTS",
    "GROUPS",
    "NAMES",
    "REASONS",
    "START",
    "Change",
    "Changes",
    "compare_settings",
]

FACTS = (
    *("ranks", "workers", "native_images", "classes", "class_names", "training_set"),
    "teacher_weights",
)
"""Settings that aren't keys."""

# Whether data_dir holds the same images is checked by training_set, which is a fingerprint, and
# whether teacher_ckpt holds the same weights by teacher_weights.
_FREE = {
    *("distribute", "val_while_train", "val_interval", "log_interval", "data_dir", "on_bad_image"),
    *("dataset_download", "eval_shuffle", "resume"),
    *("resume_opt", "keep_checkpoint_max", "ckpt_save_dir", "ckpt_save_interval", "val_split"),
    *("ckpt_save_policy", "save_every_steps", "save_every_minutes", "nan_patience"),
    *("val_amp_level", "use_ema", "per_class", "confusion", "num_classes", "compile_cache"),
    *("cache_images_mb", "resume_anyway", "crop_pct", "onnx"),
    *("teacher_ckpt", "teacher_ema"),
}
# These change the last bits of a result or an image's random augmentation, but not the order of
# the images.
_INEXACT = {
    *("mode", "device_target", "jit_level", "native_kernels", "num_parallel_workers"),
    *("dataset_sink_mode", "native_loader", "native_images", "workers"),
}

# These change which images make a batch, but not the images of an epoch.
_BETWEEN_EPOCHS = {"ranks", "batch_size", "gradient_accumulation_steps"}

# These lay the schedule out over the epochs, so they have to follow epoch_size. The others say how
# high the rates are (lr, min_lr, decay_rate, ...) or what the curve is (scheduler, lr_epoch_stair).
_LENGTHS = {"warmup_epochs", "decay_epochs", "multi_step_decay_milestones", "num_cycles"}

_NAMED = {
    *("scheduler", "lr", "min_lr", "warmup_factor", "decay_rate", "lr_epoch_stair", "cycle_decay"),
    *("momentum", "weight_decay", "use_nesterov", "weight_decay_filter", "eps", "layer_decay"),
    *("clip_grad", "clip_value", "ema_decay", "sync_bn"),
    *("loss", "label_smoothing", "aux_factor", "reduction"),
    *("teacher", "teacher_args", "teacher_weights", "distill_alpha", "distill_temperature"),
    *("amp_level", "amp_cast_list", "drop_overflow_update"),
    *("drop_rate", "drop_path_rate", "model_args"),
    *("image_resize", "scale", "ratio", "hflip", "vflip", "color_jitter", "interpolation"),
    *("auto_augment", "aug_splits", "re_prob", "re_scale", "re_ratio", "re_value"),
    *("re_max_attempts", "mean", "std", "mixup", "cutmix", "cutmix_prob"),
}
_NAMED_BETWEEN = {
    *("training_set", "dataset", "train_split", "num_samples", "shuffle", "seed"),
    *("drop_remainder", "aug_repeats"),
}

_IMPOSSIBLE = {
    "model": "another network has other parameters",
    "in_channels": "the first layer's weights have that many channels",
    "ghostify": "it decides which parameters the network has",
    "classes": "the classifier's weights have that many rows",
    "class_names": "each row of the classifier stands for one class",
    "opt": "each optimizer has a state of its own",
    "ema": "a state holds averaged weights exactly if its run had ema",
    "loss_scale": "the state's loss scale continues",
    "loss_scale_type": "the state's loss scale and its counter continue",
}

START = ("pretrained", "ckpt_path", "reset_head")
"""What a run starts from, which its record tells as long as it is resumed."""

REASONS = {
    **_IMPOSSIBLE,
    **dict.fromkeys(START, "the run has begun, and goes on from its state; leave it out"),
}
"""Settings that can't be changed -> why."""

GROUPS: dict[str, frozenset[str]] = {
    "FREE": frozenset(_FREE),
    "INEXACT": frozenset(_INEXACT),
    "BETWEEN_EPOCHS": frozenset(_BETWEEN_EPOCHS),
    "EPOCH_SIZE": frozenset({"epoch_size"}),
    "LENGTHS": frozenset(_LENGTHS),
    "NAMED": frozenset(_NAMED),
    "NAMED_BETWEEN": frozenset(_NAMED_BETWEEN),
    "IMPOSSIBLE": frozenset(_IMPOSSIBLE),
    "START": frozenset(START),
}
"""The groups of the module's table."""

NAMES = frozenset(name for group in GROUPS.values() for name in group) - set(REASONS)
"""What ``resume_anyway`` may name; most of it may change without being named."""

# A user who gives other images or another teacher names the key that he changed, and not the fact.
_ALSO_NAMES = {
    **dict.fromkeys(("data_dir", "dataset", "train_split"), "training_set"),
    **dict.fromkeys(("teacher", "teacher_ckpt", "teacher_ema", "teacher_args"), "teacher_weights"),
}


@dataclass(frozen=True)
class Change:
    """A setting that isn't as it was.

    >>> str(Change("lr", 0.1, 0.2))
    'lr: 0.1 before, 0.2 now'
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {quoted(self.before)} before, {quoted(self.now)} now"


@dataclass(frozen=True)
class Changes:
    """How a resumed run's settings differ from those of its state.

    Attributes:
        impossible: those that can't be accepted, for one of :data:`REASONS`.
        kept: of the group ``START``, which aren't given any more.
        unnamed: those that are legal only if ``resume_anyway`` names them, and it doesn't.
        named: those that it names.
        schedule: ``epoch_size``, and ``LENGTHS`` that changed with it.
        between_epochs: those that are legal at the end of an epoch only; some are in ``named``.
        inexact: those after which results may differ in their last bits.
        unchanged: what ``resume_anyway`` names without need.
    """

    impossible: tuple[Change, ...] = ()
    kept: tuple[Change, ...] = ()
    unnamed: tuple[Change, ...] = ()
    named: tuple[Change, ...] = ()
    schedule: tuple[Change, ...] = ()
    between_epochs: tuple[Change, ...] = ()
    inexact: tuple[Change, ...] = ()
    unchanged: tuple[str, ...] = ()

    @property
    def of_results(self) -> tuple[Change, ...]:
        """Changes after which it isn't the run any more that was started."""
        others = (change for change in self.between_epochs if change not in self.named)
        return (*self.schedule, *self.named, *others)


def compare_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], accepted: Iterable[str] = ()
) -> Changes:
    """Compare a resumed run's settings with those of its state.

    Args:
        before: keys and :data:`FACTS`, as read from the state's JSON.
        now: the same of the run that resumes.
        accepted: ``resume_anyway``.

    >>> found = compare_settings({"lr": 0.1, "ranks": 2}, {"lr": 0.2, "ranks": 4}, ["lr"])
    >>> [str(change) for change in (*found.named, *found.between_epochs)]
    ['lr: 0.1 before, 0.2 now', 'ranks: 2 before, 4 now']
    """
    now = json.loads(json.dumps(now))  # tuples become lists, as in ``before``
    accepted = set(accepted)
    names = accepted | {_ALSO_NAMES[name] for name in accepted if name in _ALSO_NAMES}
    found: dict[str, list[Change]] = {}
    for key in sorted({*before, *now} - _FREE):
        change = Change(key, before.get(key), now.get(key))
        if change.before == change.now:
            continue
        known = key in before and key in now  # a release may lack it: its value is unknown there
        for group in _groups_of(key, names, before, now) if known else ("inexact",):
            found.setdefault(group, []).append(change)
    needed = {change.key for change in found.get("named", [])}
    needless = {name for name in accepted if not needed & {name, _ALSO_NAMES.get(name, name)}}
    changes = {group: tuple(members) for group, members in found.items()}
    return Changes(**changes, unchanged=tuple(sorted(needless)))


def _groups_of(
    key: str, names: set[str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[str, ...]:
    """Name the attributes of :class:`Changes` that a change of a key belongs to."""
    if key in _IMPOSSIBLE:
        return ("impossible",)
    if key in START:
        return ("impossible",) if now[key] else ("kept",)
    if key in _BETWEEN_EPOCHS:
        return ("between_epochs",)
    if key in _INEXACT:
        return ("inexact",)
    longer = before.get("epoch_size") != now.get("epoch_size")
    if key == "epoch_size" or (key in _LENGTHS and longer):
        return ("schedule",)
    if key not in names:
        return ("unnamed",)
    return ("named", "between_epochs") if key in _NAMED_BETWEEN else ("named",)
