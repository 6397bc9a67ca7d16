"""The checked configuration of a run: all sections in one value, which can be saved as a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mindcv_ghost.compat import usable_cores
from mindcv_ghost.config.keys import (
    KEYS,
    SECTIONS,
    AmpConfig,
    AugmentConfig,
    CheckpointConfig,
    DatasetConfig,
    DistillConfig,
    EvaluateConfig,
    ExportConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    SystemConfig,
    TrainConfig,
)
from mindcv_ghost.version import __version__

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """All keys' values, checked. Two configurations are equal if all their values are.

    Attributes:
        export: export.py's own options, which aren't part of a recipe.
        path: the recipe file, or "".
        notices: lines to log once, about keys that aren't followed as written.
        explicit: keys that the recipe or the command line sets.
        given: keys that the command line sets.
        class_names: of a published network, in the order of its outputs; () where none are known.
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
    distill: DistillConfig = field(default_factory=DistillConfig)
    amp: AmpConfig = field(default_factory=AmpConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    path: str = field(default="", compare=False)
    notices: tuple[str, ...] = field(default=(), compare=False)
    explicit: frozenset[str] = field(default=frozenset(), compare=False)
    given: frozenset[str] = field(default=frozenset(), compare=False)
    class_names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def workers(self) -> int:
        """Number of loader threads: ``num_parallel_workers``, but at most one a usable core.

        MindSpore refuses more threads than the machine has cores. ``num_parallel_workers`` itself
        isn't changed, so that ``config.yaml`` is right on another machine.
        """
        cores = usable_cores()
        return min(self.dataset.num_parallel_workers or cores, cores)

    @property
    def names_data(self) -> bool:
        """Whether the recipe or the command line says which data set it is for."""
        return not self.explicit.isdisjoint({"dataset", "data_dir"})

    @property
    def system_files(self) -> bool:
        """Whether a set that a package of the system has may be read where ``data_dir`` has none.

        A recipe's ``data_dir`` is where a download would put it; the command line's is meant.
        """
        return "data_dir" not in self.given

    def flat(self) -> dict[str, Any]:
        """Return the values of a recipe's keys by name, without sections."""
        return {key.name: getattr(getattr(self, key.section), key.name) for key in KEYS.values()}

    def to_yaml(self, version: str = __version__) -> str:
        """Return a recipe of all keys, which ``--config`` loads as an equal configuration.

        Args:
            version: of this package, which the run was or will be made with; "" if it isn't known.
        """
        values = self.flat()
        lines = [f"# every setting of a run of mindcv_ghost {version}".rstrip()]
        for section in SECTIONS:
            lines += ["", f"# {section}"]
            for key in KEYS.values():
                if key.section == section:
                    lines.append(f"{key.name}: {_yaml_text(values[key.name])}")
        return "\n".join(lines) + "\n"


def _yaml_text(value: Any) -> str:
    """Format a value as one line of YAML that loads as the same value.

    >>> _yaml_text((0.08, 1e-05)), _yaml_text("1e-5"), _yaml_text(None)
    ('[0.08, 1.0e-05]', '"1e-5"', 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        import yaml

        # Quoted, because text that looks like a number would load as a number.
        text = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
        return text.strip()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml_text, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{name}: {_yaml_text(item)}" for name, item in value.items())
        return "{" + pairs + "}"
    text = repr(value)
    # PyYAML, and so MindCV, reads 1e-05 as text, and 1.0e-05 as a number.
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
