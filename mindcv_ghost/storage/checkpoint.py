"""Save the weights of networks as MindSpore checkpoints, and load them back.

A load takes every weight that the network needs, or raises an error; it never skips one silently.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import replacing
from mindcv_ghost.storage.ckpt_format import read_ckpt
from mindcv_ghost.storage.name_mismatch import Mismatch, compare

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn

__all__ = [
    "LoadReport",
    "is_optimizer_state",
    "load_weights",
    "parameter_names",
    "save_weights",
    "split_averages",
]

_EMA_PREFIX = "ema."
# Names under which MindSpore's and MindCV's optimizers and trainers save their own state.
_OPTIMIZER_STATE = re.compile(
    r"(momentum|moments|moment1|moment2|accum|exp_avg\w*|m|v|stat|vhat|mean_square|mean_gradient)\..+"
    r"|learning_rate\w*|lr|momentum|global_step|beta[12]_power|weight_decay|updates|ema_updates"
    r"|epoch_num|step_num|scale_sense|current_iterator_step|last_overflow_iterator_step"
    r"|loss_scale\w*|accumulation_step|grad_\w+\..+|gradient_sum\..+|random_op|crc_num"
)

_MAX_LISTED = 10
# Weights, average and LAMB's two moments make 4 times the weights, a head of ImageNet-21k more.
_LARGEST_RATIO = 8
_LARGEST_OTHER = 2 * 2**30  # bytes: 500 million float32, which few image models have


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did.

    Args:
        loaded: number of parameters taken from the file.
        reset: names of classifier parameters left at their initial values.
        ema: whether the averaged weights were loaded.
    """

    loaded: int
    reset: tuple[str, ...]
    ema: bool


def save_weights(parameters: Sequence[ms.Parameter], path: str | os.PathLike) -> None:
    """Write a MindSpore checkpoint atomically.

    ``mindspore.save_checkpoint`` alone isn't enough: it deletes the old file before it renames the
    new one and never syncs (MindSpore 2.8, train/serialization.py), so a kill in between loses
    both.

    Args:
        parameters: what to save, under the parameters' names.
        path: the file to replace.

    Raises:
        OSError: if it can't be written; an existing file is then unchanged.
    """
    import mindspore as ms

    entries = [{"name": p.name, "data": p} for p in parameters]
    with replacing(path, suffix=".tmp.ckpt") as temporary:
        try:
            ms.save_checkpoint(entries, str(temporary))
        except Exception as error:
            with contextlib.suppress(OSError):
                temporary.with_suffix(".tmp").unlink()  # where MindSpore writes before it renames
            raise OSError(f"{path} can't be written: {_first_line(error)}") from error


def load_weights(
    network: nn.Cell, path: str | os.PathLike, use_ema: bool = False, reset_head: bool = False
) -> LoadReport:
    """Load a checkpoint into a network.

    Accepts the files of this package, of MindCV and of ``mindspore.save_checkpoint``. The state of
    an optimizer or a trainer in the file is ignored.

    Args:
        network: receives the weights and BN statistics.
        path: the ``.ckpt`` file.
        use_ema: load the averaged weights (names ``ema.*``).
        reset_head: if the classifier was trained for another number of classes, leave it at its
            initial values instead of raising an error.

    Raises:
        CheckpointError: if the file is missing or damaged, has no averaged weights though
            ``use_ema`` is given, or doesn't match the network; then the message lists missing,
            unexpected and wrongly shaped names, ten of each.
    """
    import mindspore as ms

    stored = _read(Path(path), network)
    plain, averaged = split_averages(stored)
    if use_ema and not averaged:
        raise CheckpointError(
            f"{path} holds no averaged weights (no name begins with {_EMA_PREFIX!r}): it was "
            "trained without ema. Leave out --use_ema."
        )
    weights = averaged if use_ema else plain
    parameters = {p.name: p for p in network.get_parameters()}
    mismatch = compare(
        {name: array.shape for name, array in weights.items()},
        {name: tuple(p.shape) for name, p in parameters.items()},
        ignored={name for name in weights if is_optimizer_state(name)},
    )
    other_head = _is_other_head(mismatch)
    if mismatch and not (other_head and reset_head):
        summary = f"({len(weights)} names in it, {len(parameters)} needed)"
        raise CheckpointError(
            f"{path} doesn't fit the network {summary}:\n{mismatch}\n{_advice(mismatch)}"
        )
    for name, p in parameters.items():
        if (weights[name].dtype.kind == "f") != p.is_floating_point():
            raise CheckpointError(
                f"{path} holds {name} as {weights[name].dtype}, the network has {p.dtype}: "
                "quantised or damaged weights can't be loaded."
            )
    for name, p in parameters.items():
        if name not in mismatch.reshaped:
            # The copy is aligned; an array lies anywhere in its file, and MindSpore 2.7.1 refuses
            # unaligned ones ("Cannot construct Tensor because of unsupported data type: 0").
            p.set_data(ms.Tensor(np.array(weights[name]), p.dtype))
    reset = tuple(mismatch.reshaped)
    return LoadReport(len(parameters) - len(reset), reset, use_ema)


def parameter_names(path: str | os.PathLike, network: nn.Cell) -> list[str]:
    """List the names in a checkpoint.

    Args:
        path: the ``.ckpt`` file.
        network: decides how large the file may be.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    return list(_read(Path(path), network))


def split_averages(
    stored: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Separate the averaged weights of a checkpoint from everything else.

    Args:
        stored: the checkpoint's arrays, by name.

    Returns:
        The other arrays, and the averaged weights under the names of the weights (without
        ``ema.``).
    """
    plain: dict[str, np.ndarray] = {}
    averaged: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        if name.startswith(_EMA_PREFIX):
            averaged[name[len(_EMA_PREFIX) :]] = array
        else:
            plain[name] = array
    return plain, averaged


def is_optimizer_state(name: str) -> bool:
    """Whether an optimizer or a trainer of MindSpore or MindCV saves its state under this name.

    >>> is_optimizer_state("momentum.conv1.weight"), is_optimizer_state("conv1.weight")
    (True, False)
    """
    return _OPTIMIZER_STATE.fullmatch(name) is not None


def _read(path: Path, network: nn.Cell) -> dict[str, np.ndarray]:
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.ckpt"))[:_MAX_LISTED]
        there = f"; that folder has {', '.join(near)}" if near else ""
        raise CheckpointError(f"no checkpoint {path}{there}. Check --ckpt_path.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; --ckpt_path takes a .ckpt file in it.")
    # The file may hold weights, their averages and an optimizer's state. A file of another model is
    # read as well, so that the message can list the differences.
    own = sum(p.size * p.itemsize for p in network.get_parameters())
    return read_ckpt(path, max(_LARGEST_OTHER, _LARGEST_RATIO * own))


def _is_other_head(mismatch: Mismatch) -> bool:
    """Tell whether file and network differ in nothing but the classifier's number of classes."""
    if mismatch.missing or mismatch.unexpected or not mismatch.reshaped:
        return False
    # A classifier is one layer, or the two of a Ghost module, with a bias each.
    one_cell = len({name.split(".")[0] for name in mismatch.reshaped}) == 1
    only_classes = all(
        len(found) == len(needed) > 0 and found[1:] == needed[1:]
        for found, needed in mismatch.reshaped.values()
    )
    return one_cell and only_classes and len(mismatch.reshaped) <= 4


def _advice(mismatch: Mismatch) -> str:
    if not _is_other_head(mismatch):
        return "Check that --model (and --model_args) are those that the file was trained with."
    found, needed = next(iter(mismatch.reshaped.values()))
    return (
        f"Only the classifier differs: the file was trained for {found[0]} classes, the network "
        f"has {needed[0]}. --reset_head true starts with a new classifier, --num_classes makes the "
        "network fit the file."
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- \n")]
    return lines[0] if lines else type(error).__name__
