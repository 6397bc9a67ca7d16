"""Save the weights of networks as MindSpore checkpoints, and load them back.

A load takes every weight that the network needs, or raises an error; it never skips one silently.
Whatever else reads weights (``mindcv_ghost.create_model``, the converter) does it through
:func:`network_weights`, so that all of them accept the same files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import numpy as np

from mindcv_ghost.errors import CheckpointError, first_line
from mindcv_ghost.storage.atomic_file import replacing
from mindcv_ghost.storage.name_mismatch import Mismatch, compare
from mindcv_ghost.storage.training_state import STATE_FORMAT
from mindcv_ghost.storage.weight_names import AmbiguousNames, select_weights
from mindcv_ghost.storage.weights_file import WeightsFile, conversion_command, read_weights_file

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn

__all__ = [
    "LoadReport",
    "NetworkWeights",
    "OptionNames",
    "load_weights",
    "network_weights",
    "parameter_names",
    "remark",
    "save_weights",
]

_EMA_PREFIX = "ema."
_BRANCHES = ".branches."  # of layers/rep_conv.py
_STATISTICS = (".moving_mean", ".moving_variance")
# Weights, average, gradient sums and Adan's four moments make 7 times the weights, a head of
# ImageNet-21k more.
_LARGEST_RATIO = 10
_LARGEST_OTHER = 2 * 2**30  # bytes: 500 million float32, which few image models have


@dataclass(frozen=True)
class OptionNames:
    """What messages call the options that decide whether a file fits.

    Args:
        model: names the network.
        model_args: the network's arguments.
        ema: asks for the averaged weights.
        other_classes: what to do if the file was trained for another number of classes.
    """

    model: str = "--model"
    model_args: str = "--model_args"
    ema: str = "--use_ema true (ema=True)"
    other_classes: str = (
        "--num_classes makes the network fit the file; in a training, --reset_head true starts "
        "with a new classifier."
    )


_OPTIONS = OptionNames()


@dataclass(frozen=True)
class NetworkWeights:
    """The part of a file that is a network's.

    Args:
        arrays: by the network's names; names that nobody knows are among them.
        prefixes: what was taken off the names in the file, for example ``network.``.
        ignored: how many arrays are an optimizer's or a trainer's state, or averaged weights.
    """

    arrays: dict[str, np.ndarray]
    prefixes: tuple[str, ...]
    ignored: int


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did.

    Args:
        loaded: number of parameters taken from the file.
        reset: names of classifier parameters left at their initial values.
        ema: whether the averaged weights were loaded.
        prefixes: what was taken off the names in the file.
        ignored: how many other arrays are in the file: an optimizer's state, averages.
    """

    loaded: int
    reset: tuple[str, ...]
    ema: bool
    prefixes: tuple[str, ...]
    ignored: int

    def __str__(self) -> str:
        """Say it in one line."""
        kind = "averaged weights" if self.ema else "weights"
        new = f"; new: {', '.join(self.reset)}" if self.reset else ""
        return f"{self.loaded} {kind}{remark(self.prefixes, self.ignored)}{new}"


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
            raise OSError(f"{path} can't be written: {first_line(error)}") from error


def load_weights(
    network: nn.Cell,
    path: str | os.PathLike,
    use_ema: bool = False,
    reset_head: bool = False,
    model: str = "NAME",
    rename: Callable[[nn.Cell, Sequence[str]], Mapping[str, str]] | None = None,
    options: OptionNames = _OPTIONS,
) -> LoadReport:
    """Load a checkpoint into a network.

    Accepts the files that :func:`~mindcv_ghost.storage.weights_file.read_weights_file` reads, from
    whichever trainer of MindSpore they are: a prefix that all names have is taken off, and the
    state of an optimizer or a trainer is ignored.

    Args:
        network: receives the weights and BN statistics.
        path: the file.
        use_ema: load the averaged weights (names ``ema.*``).
        reset_head: if the classifier was trained for another number of classes, leave it at its
            initial values instead of raising an error.
        model: the network's registered name, for messages.
        rename: ``rename(network, names)`` returns new names for those that were found, as
            new name -> name; None keeps them.
        options: what messages call the command's options.

    Raises:
        CheckpointError: if the file is missing or damaged, has no averaged weights though
            ``use_ema`` is given, or doesn't match the network; then the message lists missing,
            unexpected and wrongly shaped names, ten of each.
    """
    file = _read(path, network, model)
    found = network_weights(file, network, use_ema, options)
    weights = found.arrays
    if rename is not None:
        weights = {new: weights[old] for new, old in rename(network, list(weights)).items()}
    parameters = {p.name: p for p in network.get_parameters()}
    mismatch = compare(
        {name: array.shape for name, array in weights.items()},
        {name: tuple(p.shape) for name, p in parameters.items()},
    )
    other_head = _is_other_head(mismatch)
    if mismatch and not (other_head and reset_head):
        rest = remark(found.prefixes, found.ignored)
        summary = f"({len(weights)} names in it, {len(parameters)} needed{rest})"
        raise CheckpointError(
            f"{path} doesn't fit the network {summary}:\n{mismatch}\n"
            f"{_advice(mismatch, file, model, options)}"
        )
    for name, p in parameters.items():
        if (weights[name].dtype.kind == "f") != p.is_floating_point():
            raise CheckpointError(
                f"{path} holds {name} as {weights[name].dtype}, the network has {p.dtype}: "
                "quantised or damaged weights can't be loaded."
            )
    for name, p in parameters.items():
        if name not in mismatch.reshaped:
            _set(p, weights[name])
    reset = tuple(mismatch.reshaped)
    return LoadReport(len(parameters) - len(reset), reset, use_ema, found.prefixes, found.ignored)


def parameter_names(path: str | os.PathLike, network: nn.Cell) -> list[str]:
    """List the names in a checkpoint.

    Args:
        path: the file.
        network: decides how large the file may be.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    return list(_read(path, network, "NAME").arrays)


def network_weights(
    file: WeightsFile, network: nn.Cell, use_ema: bool, options: OptionNames = _OPTIONS
) -> NetworkWeights:
    """Pick the arrays of a file that are a network's weights and statistics.

    Args:
        file: its arrays.
        network: whose names are looked for; its weights stay as they are.
        use_ema: pick the averaged weights (names ``ema.*``).
        options: what messages call the command's options.

    Returns:
        The weights; whether they are complete and of the right shapes isn't checked.

    Raises:
        CheckpointError: if there are no averaged weights, or only those, or several sets of
            weights.
    """
    averaged = {n[len(_EMA_PREFIX) :]: n for n in file.arrays if n.startswith(_EMA_PREFIX)}
    plain = {name: name for name in file.arrays if not name.startswith(_EMA_PREFIX)}
    if use_ema and not averaged:
        raise CheckpointError(
            f"{file.path} holds no averaged weights (no name begins with {_EMA_PREFIX!r}): it was "
            f"trained without ema. Leave out {options.ema}."
        )
    if not use_ema and not plain:
        raise CheckpointError(
            f"{file.path} holds averaged weights alone (all names begin with {_EMA_PREFIX!r}). "
            f"Load them with {options.ema}."
        )
    candidates = averaged if use_ema else plain
    try:
        selection = select_weights(
            {name: file.arrays[stored].shape for name, stored in candidates.items()},
            {p.name: tuple(p.shape) for p in network.get_parameters()},
            [p.name for p in network.trainable_params()],
        )
    except AmbiguousNames as problem:
        raise CheckpointError(_ambiguity(file.path, problem)) from None
    arrays = {new: file.arrays[candidates[old]] for old, new in selection.names.items()}
    ignored = selection.state + len(file.arrays) - len(candidates)
    return NetworkWeights(arrays, selection.prefixes, ignored)


def remark(prefixes: Sequence[str], ignored: int) -> str:
    """Say what was done with the names of a file, as the end of a line; often nothing.

    >>> remark(["network."], 222)
    "; 'network.' was taken off the names; 222 other arrays ignored"
    """
    taken_off = f"; {' and '.join(map(repr, prefixes))} was taken off the names" if prefixes else ""
    return taken_off + (f"; {ignored} other arrays ignored" if ignored else "")


def _read(path: str | os.PathLike, network: nn.Cell, model: str) -> WeightsFile:
    # The file may hold weights, their averages and an optimizer's state. A file of another model is
    # read as well, so that the message can list the differences.
    own = sum(p.size * p.itemsize for p in network.get_parameters())
    file = read_weights_file(path, max(_LARGEST_OTHER, _LARGEST_RATIO * own), model)
    if file.metadata.get("format") == STATE_FORMAT:
        raise CheckpointError(
            f"{path} is the state of a run, for train.py --resume. Its weights are beside it, in "
            "the run folder's last.ckpt and best.ckpt."
        )
    return file


def _set(parameter: ms.Parameter, array: np.ndarray) -> None:
    import mindspore as ms

    # The copy is aligned; an array lies anywhere in its file, and MindSpore 2.7.1 refuses unaligned
    # ones ("Cannot construct Tensor because of unsupported data type: 0").
    parameter.set_data(ms.Tensor(np.array(array), parameter.dtype))


def _ambiguity(path: Path, problem: AmbiguousNames) -> str:
    keep, count = problem.prefixes[0], len(problem.prefixes)
    return (
        f"{path} holds {count} sets of weights that all fit the network: {problem}. "
        "Which one is meant can't be told. Save it alone, for example: mindspore.save_checkpoint("
        f"mindspore.load_checkpoint({str(path)!r}, choice_func=lambda name: "
        f"name.startswith({keep!r})), 'chosen.ckpt')"
    )


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


def _advice(mismatch: Mismatch, file: WeightsFile, model: str, options: OptionNames) -> str:
    """Say what to do about a file that doesn't fit."""
    if _is_other_head(mismatch):
        found, needed = next(iter(mismatch.reshaped.values()))
        return (
            f"Only the classifier differs: the file was trained for {found[0]} classes, the "
            f"network has {needed[0]}. {options.other_classes}"
        )
    of_network = any(_BRANCHES in name for name in mismatch.missing)
    of_file = any(_BRANCHES in name for name in mismatch.unexpected)
    if of_network and not of_file:
        return (
            "The file holds the deploy form of a re-parameterised network, whose branches are "
            f"merged. {options.model_args} deploy=true builds that form."
        )
    if of_file and not of_network:
        return (
            "The file holds the training form of a re-parameterised network, with its branches. "
            f"Leave out {options.model_args} deploy=true; export merges the branches itself."
        )
    if _is_pytorchs(file):
        return f"The names are PyTorch's. Convert it: {conversion_command(file.path, model)}"
    if file.metadata.get("remove_redundancy") == "True" or file.path.parent.name.startswith(
        "rank_"
    ):
        return (
            "This is one rank's part of a distributed training. Join the parts with "
            "mindspore.unified_safetensors(SOURCE, STRATEGY_FILE, TARGET), and give TARGET."
        )
    statistics = all(name.endswith(_STATISTICS) for name in mismatch.missing)
    if mismatch.missing and statistics and not mismatch.reshaped:
        return (
            "Only BN statistics are missing: this looks like an optimizer's file (MindCV's "
            "optim_*.ckpt). Give the model's file, which is beside it."
        )
    given = f"{options.model} (and {options.model_args})"
    return f"Check that {given} are those that the file was trained with."


def _is_pytorchs(file: WeightsFile) -> bool:
    return file.metadata.get("format") == "pt" or any(
        name.endswith((".running_mean", ".running_var")) for name in file.arrays
    )
