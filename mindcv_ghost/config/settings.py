"""What a run was asked for: the sections as one value, and its record as a recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

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
from mindcv_ghost.config.table import KEYS, SECTIONS
from mindcv_ghost.version import __version__

__all__ = ["Config", "usable_cores"]


def usable_cores() -> int:
    """Count the processor cores that this process may use.

    Open MPI binds each of two ranks to a core of its own, so this can be less than the machine has.
    """
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


@dataclass(frozen=True)
class Config:
    """Everything that was asked for, checked. Two are equal if they ask for the same.

    Attributes:
        path: the recipe file, or "".
        notices: lines to log once, about what is done otherwise than written.
        explicit: keys that the recipe or the command line sets.
    """

    system: SystemConfig = field(default_factory=SystemConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    amp: AmpConfig = field(default_factory=AmpConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    path: str = field(default="", compare=False)
    notices: tuple[str, ...] = field(default=(), compare=False)
    explicit: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def workers(self) -> int:
        """Reading threads that this process can have: as asked, but at most one a core.

        MindSpore refuses more threads than the machine has cores. ``num_parallel_workers`` itself
        stays as asked, so that ``config.yaml`` serves on another machine.
        """
        cores = usable_cores()
        return min(self.dataset.num_parallel_workers or cores, cores)

    def flat(self) -> dict[str, Any]:
        """Return all keys with their values, as in a recipe."""
        return {key.name: getattr(getattr(self, key.section), key.name) for key in KEYS.values()}

    def to_yaml(self) -> str:
        """Write a recipe of every key, from which ``--config`` makes an equal configuration."""
        values = self.flat()
        lines = [f"# every setting of a run of mindcv_ghost {__version__}"]
        for section in SECTIONS:
            lines += ["", f"# {section}"]
            for key in KEYS.values():
                if key.section == section:
                    lines.append(f"{key.name}: {_yaml_text(values[key.name])}")
        return "\n".join(lines) + "\n"


def _yaml_text(value: Any) -> str:
    """Write a value on one line, so that reading it gives the same again.

    >>> _yaml_text((0.08, 1e-05)), _yaml_text("1e-5"), _yaml_text(None)
    ('[0.08, 1.0e-05]', '"1e-5"', 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        import yaml

        # Quoted whatever it is: unquoted text that looks like a number would come back as one.
        text = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
        return text.strip()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml_text, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{name}: {_yaml_text(item)}" for name, item in value.items())
        return "{" + pairs + "}"
    text = repr(value)
    # PyYAML, and so MindCV, takes 1e-05 for text.
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
