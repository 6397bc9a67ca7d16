"""Which keys may change when a run is resumed, and which would make it another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mindcv_ghost.config.raw_value import quoted

__all__ = ["changed_keys"]

# The weights don't depend on these. Whether data_dir holds the same images is checked elsewhere, by
# the data set's fingerprint.
_FREE = {
    *("distribute", "val_while_train", "val_interval", "log_interval", "data_dir", "on_bad_image"),
    *("dataset_download", "eval_shuffle", "pretrained", "ckpt_path", "reset_head", "resume"),
    *("resume_opt", "keep_checkpoint_max", "ckpt_save_dir", "ckpt_save_interval", "val_split"),
    *("ckpt_save_policy", "save_every_steps", "save_every_minutes", "nan_patience"),
    *("val_amp_level", "use_ema", "per_class", "confusion", "num_classes", "compile_cache"),
    "cache_images_mb",
}
# These change the last bits of a result or an image's random augmentation, but not the order of
# the images.
_INEXACT = {
    *("mode", "device_target", "jit_level", "native_kernels", "num_parallel_workers"),
    *("dataset_sink_mode", "native_loader", "native_images", "workers"),
}

# These change which images make a batch, but not the images of an epoch.
_BETWEEN_EPOCHS = {"ranks", "batch_size", "gradient_accumulation_steps"}


def changed_keys(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    """Compare a resumed run's settings with those it was started with.

    Args:
        before: keys and facts such as ``ranks``, as read from the checkpoint's JSON.
        now: the same of the run that resumes.

    Returns:
        three lists of lines such as ``lr: 0.1 before, 0.2 now``: changes that make it another run,
        changes that are legal between epochs only, and changes after which the results may differ
        in their last bits.

    >>> changed_keys({"lr": 0.1, "ranks": 2, "mode": 0}, {"lr": 0.1, "ranks": 4, "mode": 1})
    ([], ['ranks: 2 before, 4 now'], ['mode: 0 before, 1 now'])
    """
    other: list[str] = []
    between: list[str] = []
    inexact: list[str] = []
    now = json.loads(json.dumps(now))  # tuples become lists, as in ``before``
    for key in sorted({*before, *now} - _FREE):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        line = f"{key}: {quoted(old)} before, {quoted(new)} now"
        if key in _BETWEEN_EPOCHS:
            between.append(line)
        elif key in _INEXACT or key not in before or key not in now:
            inexact.append(line)  # a release that lacks the key: its value is unknown there
        else:
            other.append(line)
    return other, between, inexact
