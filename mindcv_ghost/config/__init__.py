"""Configuration: a recipe file and the command line, checked as one, in sections for the engine.

:func:`load_config` is what every script calls. Keys, types and defaults are MindCV's. Nothing here
imports MindSpore, and nothing looks at data or checkpoints: these are checked where they are used.

- ``sections.py`` is the table of keys, ``table.py`` finds them by name;
- ``recipe_file.py`` (YAML) and ``command_line.py`` tell what was written where (``given.py``);
- ``kinds.py``, ``mapping.py`` and ``auto_augment.py`` read a value, ``rules.py`` looks at several;
- ``loading.py`` joins all of it into a ``Config`` (``settings.py``).
"""

from mindcv_ghost.config.loading import load_config
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
from mindcv_ghost.config.settings import Config
from mindcv_ghost.config.table import ADDITIONS, DEVIATIONS, KEYS, SECTIONS, Key

__all__ = [
    "ADDITIONS",
    "DEVIATIONS",
    "KEYS",
    "SECTIONS",
    "AmpConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DatasetConfig",
    "EvaluateConfig",
    "Key",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "SystemConfig",
    "TrainConfig",
    "load_config",
]
