"""Convert arrays with PyTorch's names to arrays with MindSpore's names, and back.

Both frameworks store convolutions as (out, in / groups, height, width) and linear layers as (out,
in), so only names change. Every array is accounted for, or the conversion is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from mindspore import nn

from mindcv_ghost.convert.names import dialects_of, torch_names
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.name_mismatch import compare
from mindcv_ghost.storage.weight_names import AmbiguousNames, weight_prefixes

__all__ = ["ConversionReport", "to_mindspore", "to_torch"]

# BN's count of batches, which MindSpore doesn't have, and counters that a profiler (thop) adds.
_COUNTERS = re.compile(r"(^|.*\.)(num_batches_tracked|total_ops|total_params)")


@dataclass(frozen=True)
class ConversionReport:
    """What happened to the arrays.

    Args:
        model: name of the registered model.
        dialect: whose names the PyTorch file uses.
        matched: number of converted arrays, including BN's statistics.
        statistics: how many of them are BN's running means and variances.
        numbers: total size of the converted arrays.
        counters: PyTorch's counters, which were dropped (to MindSpore) or written as 0 (to
            PyTorch).
        cast: number of arrays that were converted to float32.
        prefixes: what was taken off the names in the file, such as ``module.``.
        ignored: number of arrays of an optimizer's state or of averages.
    """

    model: str
    dialect: str
    matched: int
    statistics: int
    numbers: int
    counters: int
    cast: int
    prefixes: tuple[str, ...] = ()
    ignored: int = 0


def to_mindspore(
    tensors: Mapping[str, np.ndarray], network: nn.Cell, model: str
) -> tuple[dict[str, np.ndarray], ConversionReport]:
    """Rename a PyTorch network's arrays to a MindSpore network's parameter names.

    Args:
        tensors: the state dict, as arrays.
        network: the MindSpore network.
        model: its registered name.

    Returns:
        Arrays by MindSpore's names, in the order of the network's parameters, and the report.

    Raises:
        CheckpointError: if an array is missing, left over, has another shape, or isn't of
            floating-point type.
        ConfigError: if the model isn't a Ghost network.
    """
    shapes = {p.name: tuple(p.shape) for p in network.get_parameters()}
    offered = {name: a for name, a in tensors.items() if not _COUNTERS.fullmatch(name)}
    # Take the dialect with the fewest names that don't match, the first one of several.
    by_dialect = {dialect: torch_names(model, shapes, dialect) for dialect in dialects_of(model)}
    plain = {d: _without_prefix(offered, names, shapes) for d, names in by_dialect.items()}
    dialect = min(by_dialect, key=lambda d: len(plain[d][0].keys() ^ by_dialect[d].values()))
    names, (offered, prefix) = by_dialect[dialect], plain[dialect]
    _check_fit(model, offered, {names[name]: shape for name, shape in shapes.items()})
    _check_types(offered)
    arrays = {name: offered[names[name]].astype(np.float32) for name in shapes}
    cast = sum(offered[names[name]].dtype != np.float32 for name in shapes)
    report = _report(model, dialect, arrays, len(tensors) - len(offered), cast)
    return arrays, dataclasses.replace(report, prefixes=tuple(filter(None, [prefix])))


def to_torch(
    parameters: Mapping[str, np.ndarray], network: nn.Cell, model: str, dialect: str = "timm"
) -> tuple[dict[str, np.ndarray], ConversionReport]:
    """Rename a MindSpore network's parameters to PyTorch's names; add BN's counters as 0.

    Args:
        parameters: all of the network's arrays, by MindSpore's names.
        network: the MindSpore network.
        model: its registered name.
        dialect: whose names to use.

    Returns:
        Arrays by PyTorch's names, and the report.

    Raises:
        CheckpointError: if a parameter is missing, left over, has another shape, or isn't of
            floating-point type.
        ConfigError: if the model isn't a Ghost network or has no names in this dialect.
    """
    shapes = {p.name: tuple(p.shape) for p in network.get_parameters()}
    names = torch_names(model, shapes, dialect)
    _check_fit(model, parameters, shapes)
    _check_types({name: parameters[name] for name in shapes})
    tensors: dict[str, np.ndarray] = {}
    for name in shapes:
        tensors[names[name]] = np.array(parameters[name], np.float32)
        if name.endswith(".moving_variance"):
            path = names[name].rpartition(".")[0]
            tensors[f"{path}.num_batches_tracked"] = np.zeros((), np.int64)
    cast = sum(parameters[name].dtype != np.float32 for name in shapes)
    converted = {name: parameters[name] for name in shapes}
    return tensors, _report(model, dialect, converted, len(tensors) - len(shapes), cast)


def _without_prefix(
    offered: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, np.ndarray], str]:
    """Take a wrapper's prefix (``module.``, ``model.``) off all names that have it.

    Nothing is left out: an optimizer's state isn't in PyTorch's state dicts.
    """
    needed = {names[name]: shape for name, shape in shapes.items()}
    found = {name: array.shape for name, array in offered.items()}
    trained = [name for name in needed if not name.endswith((".running_mean", ".running_var"))]
    try:
        prefix = weight_prefixes(found, needed, trained)[0]
    except AmbiguousNames as problem:
        raise CheckpointError(
            f"the file has several sets of weights that all fit: {problem}"
        ) from None
    plain = {name: name[len(prefix) :] if name.startswith(prefix) else name for name in offered}
    # Two names must not become one; the longer is then left over, which is an error.
    return {n if plain[n] in offered else plain[n]: a for n, a in offered.items()}, prefix


def _report(
    model: str, dialect: str, arrays: Mapping[str, np.ndarray], counters: int, cast: int
) -> ConversionReport:
    statistics = sum(name.endswith(("moving_mean", "moving_variance")) for name in arrays)
    numbers = sum(array.size for array in arrays.values())
    return ConversionReport(model, dialect, len(arrays), statistics, numbers, counters, int(cast))


def _check_types(arrays: Mapping[str, np.ndarray]) -> None:
    wrong = [f"{name} is {a.dtype}" for name, a in arrays.items() if a.dtype.kind != "f"]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(arrays)} arrays aren't of a floating-point type ({wrong[0]}): "
            "quantised or damaged weights can't be converted."
        )


def _check_fit(
    model: str, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that a file has exactly the arrays of a network."""
    mismatch = compare({name: array.shape for name, array in arrays.items()}, shapes)
    if not mismatch:
        return
    # The authors' ghost_resnet.py has weights of a whole convolution that its forward never uses.
    if any(re.search(r"\.conv\d\.weight[12]$|\.weight[12]$", name) for name in mismatch.unexpected):
        advice = (
            "This looks like the authors' ghost_resnet.py, whose Ghost modules never apply their "
            "BN. No network with BN computes the same, so it can't be converted."
        )
    elif mismatch.missing or mismatch.unexpected:
        advice = "Check --model and --model_args (deploy=true for a re-parameterised file)."
    else:
        advice = "Check --num_classes, --in_channels and --model_args."
    raise CheckpointError(
        f"the file doesn't fit {model} ({len(arrays)} arrays in it, {len(shapes)} needed):\n"
        f"{mismatch}\n{advice}"
    )
