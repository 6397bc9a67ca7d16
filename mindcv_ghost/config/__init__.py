"""Configuration: a recipe file and the command line become one checked :class:`Config`.

The scripts call :func:`load_config`. It returns all keys' values in sections, or raises one error
that lists all problems. It doesn't look at data or checkpoints, and doesn't import MindSpore.

Start with ``keys.py``, the table of all keys. A value goes this way: ``recipe.py`` (YAML) or
``command_line.py`` make a ``raw_value.py``, its key's type (``value_types.py``) parses it,
``loading.py`` overrides the default with it and applies ``rules.py``; it ends in a section of
``config.py``. ``resume_rules.py`` compares the configuration with that of a run to be resumed.
"""

from mindcv_ghost.config.config import Config
from mindcv_ghost.config.keys import (
    ADDITIONS,
    DEVIATIONS,
    KEYS,
    SCRIPT_SECTIONS,
    SECTIONS,
    AmpConfig,
    AugmentConfig,
    CheckpointConfig,
    DatasetConfig,
    DistillConfig,
    EvaluateConfig,
    ExportConfig,
    Key,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    SystemConfig,
    TrainConfig,
    keys_of,
)
from mindcv_ghost.config.loading import load_config

__all__ = [
    "ADDITIONS",
    "DEVIATIONS",
    "KEYS",
    "SCRIPT_SECTIONS",
    "SECTIONS",
    "AmpConfig",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
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
    "load_config",
]
