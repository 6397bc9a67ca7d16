"""A publication: the weights of a finished run in a folder that others can use and check.

The published file itself is validated, and its count of right answers is what the card says.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.config import Config
from mindcv_ghost.config.keys import CheckpointConfig, DatasetConfig, EvaluateConfig
from mindcv_ghost.convert import to_torch
from mindcv_ghost.convert.torch_file import write_torch_file
from mindcv_ghost.errors import CheckpointError, ConfigError, UserError
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.evaluation import Evaluation
from mindcv_ghost.report.finished_run import METRICS, RUN, FinishedRun
from mindcv_ghost.run.parts import create_initial_network
from mindcv_ghost.run.preprocessing import describe_recipe
from mindcv_ghost.run.session import Session
from mindcv_ghost.run.validation import (
    ValidationData,
    create_validation,
    open_validation_data,
)
from mindcv_ghost.storage.atomic_file import write_bytes, write_text
from mindcv_ghost.storage.checkpoint import save_weights
from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.storage.staging import staged
from mindcv_ghost.weights.card import Card
from mindcv_ghost.weights.checksums import SUMS, sums_text
from mindcv_ghost.weights.finding import CARD, CONFIG, WEIGHTS

__all__ = ["FORMATS", "Publication", "Wishes"]

_logger = logging.getLogger(__name__)

FORMATS = {"ckpt": "model.ckpt", "pytorch": "model_pytorch.safetensors"}
"""Further files of the weights -> their names."""

_TEXT = "README.md"
# What is different elsewhere. The rest of a recipe makes the network and its numbers.
_OF_THE_MACHINE = {
    "dataset": (DatasetConfig, ("data_dir", "dataset_download", "num_parallel_workers")),
    "checkpoint": (CheckpointConfig, ("ckpt_save_dir", "resume", "resume_anyway")),
    "evaluate": (EvaluateConfig, ("per_class", "confusion", "use_ema")),
}


@dataclass(frozen=True)
class Wishes:
    """What the user decides.

    Args:
        out: the folder to write.
        name: of the published network.
        license: of the weights.
        data: what the card calls the data set; "" for the recipe's word, or the folder's.
        dtype: "float32" or "float16".
        formats: keys of :data:`FORMATS`.
    """

    out: Path
    name: str
    license: str
    data: str
    dtype: str
    formats: tuple[str, ...]


@dataclass
class Publication:
    """A publication that is ready to start.

    Args:
        run: a finished run.
        config: the run's configuration; its ``ckpt_path`` is the checkpoint to publish.
        started_from: the weights that the training began with; "" for random ones.
        wishes: what the user decides.
        world: this process.
        session: the device.
    """

    run: FinishedRun
    config: Config
    started_from: str
    wishes: Wishes
    world: World
    session: Session

    def write(self) -> tuple[Card, str]:
        """Write the folder.

        Returns:
            The card, and the SHA-256 of ``SHA256SUMS``.

        Raises:
            UserError: if data, checkpoint or recipe can't be used, or the folder can't be written.
        """
        out = self.wishes.out
        try:
            with staged(out, new=True) as folder:
                data = open_validation_data(self.config, self.world)
                before = self._validate(self.config.model.ckpt_path, data)
                network, _ = create_initial_network(self.config, data.num_classes)
                arrays = _rounded(network, self.wishes.dtype)
                self._write_weights(folder, network, arrays)
                after = self._validate(str(folder / WEIGHTS), data)
                self._check(before, after)
                card = self._card(network, data, before, after)
                self._write_texts(folder, card)
                files = [path.name for path in folder.iterdir()]
                write_text(folder / SUMS, sums_text(folder, files))
            return card, sha256_of(out / SUMS)
        except FileExistsError as problem:
            raise ConfigError(
                f"another publish is writing to {out}, or has written it: give a new folder"
            ) from problem
        except OSError as problem:
            reason, file = problem.strerror or problem, problem.filename
            if file and out not in Path(file).parents:
                raise UserError(f"{file}: {reason}. Nothing was written.") from problem
            raise UserError(f"{out} can't be written: {reason}") from problem

    def _validate(self, checkpoint: str, data: ValidationData) -> Evaluation:
        of_the_run = checkpoint == self.config.model.ckpt_path
        config = dataclasses.replace(
            self.config, model=dataclasses.replace(self.config.model, ckpt_path=checkpoint)
        )
        if not of_the_run:  # the published file has one set of weights
            evaluate = dataclasses.replace(config.evaluate, use_ema=False)
            config = dataclasses.replace(config, evaluate=evaluate)
        evaluation = create_validation(config, self.world, self.session, data).run()
        correct, images = evaluation.correct, evaluation.images
        _logger.info("%s: %s of %s images right", Path(checkpoint).name, correct, images)
        return evaluation

    def _check(self, before: Evaluation, after: Evaluation) -> None:
        """Refuse a file that differs though it shouldn't, and tell what rounding costs."""
        cost = after.correct - before.correct
        if self.wishes.dtype == "float32" and cost:
            raise CheckpointError(
                f"{WEIGHTS} gives {after.correct} right answers, the checkpoint {before.correct}, "
                "though both hold the same numbers. Nothing was written."
            )
        if cost:
            _logger.warning(
                "rounded to float16, %d of %d answers are right, and %d as the run left them",
                *(after.correct, after.images, before.correct),
            )
        recorded = [row.get("top1") for row in self.run.rows]
        if not any(top1 is not None and abs(top1 - before.top1) < 1e-4 for top1 in recorded):
            _logger.warning(
                "%s has no epoch with this top-1 (%.4f %%): other data, other weights than those "
                "that the run validated (--use_ema), or another machine's rounding",
                self.run.folder / METRICS,
                before.top1,
            )

    def _write_weights(self, folder: Path, network: nn.Cell, arrays: dict[str, np.ndarray]) -> None:
        from safetensors.numpy import save

        # One entry: the library writes several in any order, and the file should be reproducible.
        write_bytes(folder / WEIGHTS, save(arrays, metadata={"format": "ms"}))
        if "ckpt" in self.wishes.formats:
            parameters = [
                ms.Parameter(ms.Tensor(array.astype(np.float32)), name=name)
                if array.dtype == np.float16
                else ms.Parameter(ms.Tensor(array), name=name)
                for name, array in arrays.items()
            ]
            save_weights(parameters, folder / FORMATS["ckpt"])
        if "pytorch" in self.wishes.formats:
            self._write_pytorch(folder, network, arrays)

    def _write_pytorch(self, folder: Path, network: nn.Cell, arrays: dict[str, np.ndarray]) -> None:
        try:
            tensors, _ = to_torch(arrays, network, self.config.model.model)
        except (ConfigError, CheckpointError) as problem:
            _logger.warning("no file with PyTorch's names: %s", problem)
            return
        for name, tensor in tensors.items():
            tensors[name] = _of_type(tensor, self.wishes.dtype)
        write_torch_file(folder / FORMATS["pytorch"], tensors)

    def _card(
        self,
        network: nn.Cell,
        data: ValidationData,
        before: Evaluation,
        after: Evaluation,
    ) -> Card:
        config, facts = self.config, self.run.facts
        preprocessing = describe_recipe(config).preprocessing
        assert preprocessing is not None  # a recipe always has one
        return Card(
            name=self.wishes.name,
            model=config.model.model,
            num_classes=data.num_classes,
            in_channels=config.model.in_channels,
            parameters=sum(p.size for p in network.trainable_params()),
            license=self.wishes.license,
            accuracy={
                "correct": after.correct,
                f"correct_top{after.k}": after.correct_topk,
                "images": after.images,
                "unreadable": after.unreadable,
                "top1": round(after.top1, 4),
                "checkpoint_correct": before.correct,
            },
            data={
                "name": self.wishes.data or _data_name(config.dataset),
                "dataset": config.dataset.dataset,
                "val_split": config.dataset.val_split,
                "train_images": facts.get("train_images"),
            },
            input=dataclasses.asdict(preprocessing),
            training=self._training(facts),
            class_names=data.class_names,
            model_args=config.model.model_args,
            ghostify=config.model.ghostify,
            dtype=self.wishes.dtype,
            ema=config.evaluate.use_ema,
        )

    def _training(self, facts: dict[str, Any]) -> dict[str, Any]:
        names = ("recipe", "seed", "epochs", "commit", "date", "hardware", "ranks", "versions")
        checkpoint = Path(self.config.model.ckpt_path)
        use_ema, validated_ema = self.config.evaluate.use_ema, self.config.train.ema
        kind = "averaged weights of " if use_ema else ""
        epoch, which = facts.get("best_epoch"), ""
        if checkpoint.name == "best.ckpt" and epoch:
            # The averages of an epoch can be its run's best, and the weights behind them not.
            is_best = use_ema == validated_ema
            why = "the best on this split" if is_best else "chosen by its averaged weights"
            which = f" (epoch {epoch}, {why})"
        return {
            **{name: facts.get(name) for name in names},
            "checkpoint": f"{kind}{checkpoint.name}{which}",
            "checkpoint_sha256": sha256_of(checkpoint),
            "started_from": self.started_from or "random weights",
            **({"teacher": _taught_by(facts["teacher"])} if "teacher" in facts else {}),
            "history": facts.get("history", []),
        }

    def _write_texts(self, folder: Path, card: Card) -> None:
        trained_with = self.run.facts.get("versions", {}).get("mindcv_ghost", "")
        write_text(folder / CONFIG, _portable(self.config).to_yaml(trained_with))
        write_bytes(folder / METRICS, self.run.metrics)
        facts = _without_folders(self.run.facts)
        write_text(folder / RUN, json.dumps(facts, indent=2, sort_keys=True) + "\n")
        sizes = {
            name: (folder / name).stat().st_size
            for name in (WEIGHTS, *FORMATS.values())
            if (folder / name).exists()
        }
        write_text(folder / CARD, card.to_json())
        write_text(folder / _TEXT, card.to_markdown(sizes))


def _portable(config: Config) -> Config:
    """Replace what belongs to this machine by the defaults."""
    model = dataclasses.replace(config.model, ckpt_path="", pretrained=False, reset_head=False)
    distill = dataclasses.replace(
        config.distill, teacher_ckpt=Path(config.distill.teacher_ckpt).name
    )
    sections: dict[str, Any] = {"model": model, "distill": distill}
    for section, (cls, names) in _OF_THE_MACHINE.items():
        defaults = cls()
        values = {name: getattr(defaults, name) for name in names}
        sections[section] = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **sections)


def _without_folders(facts: dict[str, Any]) -> dict[str, Any]:
    """Leave out where on this machine the teacher's file was; its name and digest stay."""
    if "teacher" not in facts:
        return facts
    teacher = {**facts["teacher"], "checkpoint": Path(facts["teacher"]["checkpoint"]).name}
    return {**facts, "teacher": teacher}


def _taught_by(teacher: dict[str, Any]) -> dict[str, Any]:
    """Return what the card says of a teacher."""
    names = ("model", "args", "ema", "weights", "alpha", "temperature")
    return {
        "checkpoint": Path(teacher["checkpoint"]).name,
        **{name: teacher.get(name) for name in names},
    }


def _data_name(dataset: DatasetConfig) -> str:
    if dataset.dataset in ("imagenet", "folder", ""):  # these stand for any folder
        return Path(dataset.data_dir).resolve().name
    return dataset.dataset


def _rounded(network: nn.Cell, dtype: str) -> dict[str, np.ndarray]:
    """Return a network's arrays as they will be published.

    Raises:
        CheckpointError: if a weight is too large for float16.
    """
    arrays = {p.name: _of_type(p.asnumpy(), dtype) for p in network.get_parameters()}
    infinite = _infinite(arrays.items())
    if infinite:
        raise CheckpointError(
            f"{infinite} has values that aren't finite numbers in {dtype}"
            + (": give --dtype float32" if dtype == "float16" else "")
        )
    return arrays


def _infinite(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    return next((n for n, a in arrays if a.dtype.kind == "f" and not np.isfinite(a).all()), "")


def _of_type(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round weights to float16, but not BN's parameters and statistics, and biases.

    These are 1 to 3 % of the numbers. Variances of networks that were trained on the digits reach
    from 1e-14 to 32,000; float16 ends at 65,504, and its smallest numbers are 6e-8 apart.
    """
    if dtype == "float16" and array.ndim > 1 and array.dtype == np.float32:
        with np.errstate(over="ignore"):  # an infinity is refused
            return np.ascontiguousarray(array.astype(np.float16))
    return np.asarray(array, order="C")  # ascontiguousarray makes scalars vectors
