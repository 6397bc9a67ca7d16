"""Which keys a run may change when it is continued, and which would make it another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mindcv_ghost.config.given import shown

__all__ = ["AT_EPOCH_ENDS", "differences"]

# Nothing that is learnt depends on these; where they point to, the set's fingerprint is compared.
_FREE = {
    *("distribute", "val_while_train", "val_interval", "log_interval", "data_dir", "on_bad_image"),
    *("dataset_download", "eval_shuffle", "pretrained", "ckpt_path", "reset_head", "resume"),
    *("resume_opt", "keep_checkpoint_max", "ckpt_save_dir", "ckpt_save_interval", "val_split"),
    *("ckpt_save_policy", "save_every_steps", "save_every_minutes", "nan_patience"),
    *("val_amp_level", "use_ema", "per_class", "confusion", "num_classes", "compile_cache"),
    "cache_images_mb",
}
# These change the last digits, or what an image is made to look like, but not which images come.
_LOOSE = {
    *("mode", "device_target", "jit_level", "native_kernels", "num_parallel_workers"),
    *("dataset_sink_mode", "native_loader", "native_images", "workers"),
}

AT_EPOCH_ENDS = ("ranks", "batch_size", "gradient_accumulation_steps")
"""What may change between epochs: the batches of an epoch are others then, the images the same."""


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    """Compare two runs' settings.

    Args:
        before: flat keys and facts such as ``ranks``, as they came back from JSON.
        now: the same of the run that is to continue it.

    Returns:
        Lines such as ``lr: 0.1 before, 0.2 now``: those that make it another run, those that can
        change between epochs, and those that may cost bit-equality alone.

    >>> differences({"lr": 0.1, "ranks": 2, "mode": 0}, {"lr": 0.1, "ranks": 4, "mode": 1})
    ([], ['ranks: 2 before, 4 now'], ['mode: 0 before, 1 now'])
    """
    other: list[str] = []
    between: list[str] = []
    loose: list[str] = []
    now = json.loads(json.dumps(now))
    for key in sorted({*before, *now} - _FREE):
        # A key that one of two versions doesn't have: nobody can say what it was.
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        line = f"{key}: {shown(old)} before, {shown(new)} now"
        known = key in before and key in now
        group = between if key in AT_EPOCH_ENDS else loose if key in _LOOSE or not known else other
        group.append(line)
    return other, between, loose
