"""Checkpoints: a reader never sees half a file, and nothing is loaded or left out in silence."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import give_name, replacing
from mindcv_ghost.storage.ckpt_file import read_ckpt

__all__ = ["CheckpointKeeper", "LoadReport", "load_weights", "parameter_names", "save_weights"]

EMA_PREFIX = "ema."
# What MindSpore's and MindCV's trainers store beside the weights; no network wants it.
TRAINING_STATE = re.compile(
    r"(momentum|moments|moment1|moment2|accum|exp_avg\w*|m|v|stat|vhat|mean_square|mean_gradient)\..+"
    r"|learning_rate\w*|lr|momentum|global_step|beta[12]_power|weight_decay|updates|ema_updates"
    r"|epoch_num|step_num|scale_sense|current_iterator_step|last_overflow_iterator_step"
    r"|loss_scale\w*|accumulation_step|grad_\w+\..+|gradient_sum\..+|random_op|crc_num"
)
_LISTED = 10
# Weights, average and LAMB's two moments make 4 times the weights, a head of ImageNet-21k more.
_LARGEST_RATIO = 8
_LARGEST_OTHER = 2 * 2**30  # bytes: 500 million float32, which few image models have


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did.

    Args:
        loaded: parameters taken from the file.
        reset: names of head parameters left at their initial values.
        ema: whether the averaged weights were taken.
    """

    loaded: int
    reset: tuple[str, ...]
    ema: bool


def save_weights(parameters: list[ms.Parameter], path: str | os.PathLike) -> None:
    """Write a MindSpore checkpoint: temporary file, flush to disk, rename.

    ``mindspore.save_checkpoint`` alone isn't enough: it deletes the old file before it renames the
    new one and never syncs (MindSpore 2.8, train/serialization.py), so that a kill in between loses
    both.

    Args:
        parameters: what to save; names are taken from the parameters.
        path: the file, replaced as a whole.

    Raises:
        OSError: if it can't be written; an older file of that name is then untouched.
    """
    entries = [{"name": p.name, "data": p} for p in parameters]
    with replacing(path, suffix=".tmp.ckpt") as temporary:
        try:
            ms.save_checkpoint(entries, str(temporary))
        except Exception as error:
            with contextlib.suppress(OSError):
                temporary.with_suffix(".tmp").unlink()  # where MindSpore writes before it renames
            raise OSError(f"{path} can't be written: {_last_line(error)}") from error


def load_weights(
    network: nn.Cell, path: str | os.PathLike, use_ema: bool = False, reset_head: bool = False
) -> LoadReport:
    """Load a checkpoint into a network; all of it or an error.

    Accepts the files of this package, of MindCV and of ``mindspore.save_checkpoint``; what an
    optimizer or a trainer stored beside the weights is passed over.

    Args:
        network: gets the weights and BN statistics.
        path: the ``.ckpt`` file.
        use_ema: take the averaged weights (names ``ema.*``).
        reset_head: leave a classifier that was trained for another number of classes at its
            initial values instead of refusing the file.

    Raises:
        CheckpointError: if the file is missing or damaged, has no averaged weights though they were
            asked for, or doesn't match the network: then it lists missing, unexpected and
            wrong-shaped names, ten of each.
    """
    stored = _read(Path(path), network)
    averaged = {k[len(EMA_PREFIX) :]: v for k, v in stored.items() if k.startswith(EMA_PREFIX)}
    if use_ema and not averaged:
        raise CheckpointError(
            f"{path} holds no averaged weights (no name begins with {EMA_PREFIX!r}): it was "
            "trained without ema. Leave out --use_ema."
        )
    plain = {k: v for k, v in stored.items() if not k.startswith(EMA_PREFIX)}
    weights = averaged if use_ema else plain
    wanted = {p.name: p for p in network.get_parameters()}
    missing = [name for name in wanted if name not in weights]
    unexpected = [n for n in weights if n not in wanted and not TRAINING_STATE.fullmatch(n)]
    wrong = [n for n, p in wanted.items() if n in weights and weights[n].shape != tuple(p.shape)]
    head = tuple(n for n in wrong if weights[n].shape[1:] == tuple(wanted[n].shape)[1:])
    # A classifier is a layer, or the two of a Ghost module, with a bias each.
    one_cell = len({name.split(".")[0] for name in wrong}) == 1
    is_head = one_cell and len(head) == len(wrong) <= 4
    if missing or unexpected or (wrong and not (is_head and reset_head)):
        raise CheckpointError(_mismatch(path, wanted, weights, missing, unexpected, wrong, is_head))
    for name, parameter in wanted.items():
        if (weights[name].dtype.kind == "f") != parameter.is_floating_point():
            raise CheckpointError(
                f"{path} holds {name} as {weights[name].dtype}, the network has {parameter.dtype}: "
                "quantised or damaged weights can't be loaded."
            )
    for name, parameter in wanted.items():
        if name not in wrong:
            parameter.set_data(ms.Tensor(weights[name], parameter.dtype))
    return LoadReport(len(wanted) - len(wrong), head if wrong else (), use_ema)


class CheckpointKeeper:
    """Decides which checkpoints of a run stay on the disk.

    After each call of :meth:`save` the folder holds ``last.ckpt``, ``best.ckpt`` (highest top-1 so
    far; the earlier of equals) and up to ``keep`` files ``<model>-<epoch>_<steps>.ckpt``, which are
    the names MindCV gives.

    Args:
        folder: the run folder; it must exist.
        model: name of the model.
        keep: how many numbered files stay.
        policy: ``latest_k``, ``top_k`` (by top-1), or None: all of them stay.
        interval: epochs between numbered files.
    """

    def __init__(
        self, folder: str | os.PathLike, model: str, keep: int, policy: str | None, interval: int
    ) -> None:
        self.folder = Path(folder)
        self.model = model
        self.keep = keep
        self.policy = policy
        self.interval = interval
        self.best: float | None = None
        self._kept: list[tuple[float, Path]] = []

    def save(self, parameters, epoch: int, steps: int, top1: float | None) -> bool:
        """Save after an epoch.

        Args:
            parameters: what to save.
            epoch: number of the epoch that ended, from 1.
            steps: steps an epoch.
            top1: accuracy in percent, None if it wasn't measured.

        Returns:
            Whether this is the best so far.
        """
        last = self.folder / "last.ckpt"
        save_weights(parameters, last)
        is_best = top1 is not None and (self.best is None or top1 > self.best)
        if is_best:
            give_name(last, self.folder / "best.ckpt")
            self.best = top1
        if epoch % self.interval == 0 and (self.policy != "top_k" or top1 is not None):
            path = self.folder / f"{self.model}-{epoch}_{steps}.ckpt"
            give_name(last, path)
            self._kept.append((top1 if self.policy == "top_k" else epoch, path))
            self._drop()
        return is_best

    def facts(self) -> dict:
        """What a resumed run has to know of the files so far; JSON can hold it."""
        kept = [[score, path.name] for score, path in self._kept]
        return {"best": self.best, "kept": kept}

    def take_up(self, facts: dict) -> None:
        """Go on where :meth:`facts` was asked for."""
        self.best = facts["best"]
        ours = re.compile(re.escape(self.model) + r"-\d+_\d+\.ckpt")  # nothing else is ever deleted
        self._kept = [
            (float(score), self.folder / name)
            for score, name in facts["kept"]
            if ours.fullmatch(name)
        ]

    def _drop(self) -> None:
        while self.policy is not None and len(self._kept) > self.keep:
            # The lowest goes; of equals the newest, so that the earliest stays, as for best.ckpt.
            worst = min(reversed(self._kept), key=lambda each: each[0])
            self._kept.remove(worst)
            with contextlib.suppress(FileNotFoundError):
                worst[1].unlink()


def parameter_names(path: str | os.PathLike, network: nn.Cell) -> list[str]:
    """List what a checkpoint holds; ``network`` says how large one may be.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    return list(_read(Path(path), network))


def _read(path: Path, network: nn.Cell) -> dict[str, np.ndarray]:
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.ckpt"))[:_LISTED] if path.parent else []
        there = f"; that folder has {', '.join(near)}" if near else ""
        raise CheckpointError(f"no checkpoint {path}{there}. Check --ckpt_path.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; --ckpt_path takes a .ckpt file in it.")
    # A file may hold weights, their averages and an optimizer's state, and be another model's: then
    # it is read, so that the message can say what differs.
    own = sum(p.size * p.itemsize for p in network.get_parameters())
    return read_ckpt(path, max(_LARGEST_OTHER, _LARGEST_RATIO * own))


def _mismatch(path, wanted, weights, missing, unexpected, wrong, is_head) -> str:
    lines = [f"{path} doesn't fit the network ({len(weights)} names in it, {len(wanted)} needed):"]
    shapes = [f"{n}: file {weights[n].shape}, network {tuple(wanted[n].shape)}" for n in wrong]
    for title, names in (
        ("missing in the file", missing),
        ("unexpected in the file", unexpected),
        ("of another shape", shapes),
    ):
        if names:
            lines.append(f"  {len(names)} {title}:")
            lines += [f"    {name}" for name in names[:_LISTED]]
            if len(names) > _LISTED:
                lines.append(f"    ... and {len(names) - _LISTED} more")
    if is_head and not missing and not unexpected:
        lines.append(
            f"Only the classifier differs: the file was trained for {weights[wrong[0]].shape[0]} "
            f"classes, the network has {wanted[wrong[0]].shape[0]}. --reset_head true starts with "
            "a new classifier, --num_classes makes the network fit the file."
        )
    else:
        lines.append(
            "Check that --model (and --model_args) are those that the file was trained with."
        )
    return "\n".join(lines)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- \n")]
    return lines[0] if lines else type(error).__name__
