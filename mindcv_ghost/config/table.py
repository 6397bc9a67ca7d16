"""The rows of ``sections.py`` by name, and where they differ from MindCV's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mindcv_ghost.config.kinds import Kind
from mindcv_ghost.config.sections import (
    AmpConfig,
    AugmentConfig,
    CheckpointConfig,
    DatasetConfig,
    EvaluateConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    SystemConfig,
    TrainConfig,
)

__all__ = ["ADDITIONS", "DEVIATIONS", "KEYS", "RENAMED", "SECTIONS", "Key"]

DEVIATIONS = {
    "device_target": "auto instead of Ascend: what is there is used",
    "num_parallel_workers": "what the machine has instead of 8, which MindSpore refuses on fewer",
    "distribute": "unset instead of false: the launcher decides",
    "dataset_sink_mode": "false instead of true: it hasn't been seen to work on a device yet",
}
"""Keys whose default isn't MindCV's, and why."""

ADDITIONS = (
    *("jit_level", "compile_cache", "native_kernels", "on_bad_image", "reset_head", "model_args"),
    *("ghostify", "sync_bn", "native_loader", "cache_images_mb"),
    *("resume", "save_every_steps", "save_every_minutes", "nan_patience"),
    *("use_ema", "per_class", "confusion"),
)
"""Keys that MindCV doesn't have."""

RENAMED = {
    "filter_bias_and_bn": (
        "weight_decay_filter",
        {"true": "norm_and_bias", "false": "disable"},
    ),
    "dynamic_loss_scale": ("loss_scale_type", {"true": "dynamic", "false": "fixed"}),
}
"""Keys of older MindCV, and what they are called today. MindCV 0.3's own parser refuses them,
but recipes still carry them (``fastvit_t8_ascend.yaml`` of main does)."""

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
    "amp": AmpConfig,
    "evaluate": EvaluateConfig,
}


@dataclass(frozen=True)
class Key:
    """A row of the table."""

    name: str
    section: str
    kind: Kind
    default: Any
    help: str


def _rows() -> dict[str, Key]:
    rows = {}
    for section, cls in SECTIONS.items():
        defaults = cls()
        for item in dataclasses.fields(cls):
            if item.name in rows:
                raise AssertionError(f"key {item.name} stands in two sections")
            rows[item.name] = Key(
                item.name,
                section,
                item.metadata["kind"],
                getattr(defaults, item.name),
                item.metadata["help"],
            )
    return rows


KEYS: dict[str, Key] = _rows()
