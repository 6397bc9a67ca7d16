"""Which names in a file are a network's weights, and which are a training's other state.

MindSpore saves a training cell with everything in it, and builds names from prefixes:

- A cell that wraps the network puts its attribute's name before all: ``network.conv1.weight``.
- A cell that holds the optimizer renames what the optimizer trains, but not BN statistics:
  ``optimizer.conv1.weight`` beside ``bn1.moving_mean`` (MindCV's ``GradientAccumulation``) or
  ``network.bn1.moving_mean``.
- An optimizer's state is one array for each trained weight, under a prefix of its own:
  ``adam_m.conv1.weight``, ``moments.network.conv1.weight``, ``exp_avg_sq_row_conv1.weight``.

So a prefix is judged by the names that it completes. No list of prefixes decides which are
optimizers'. The one below only says which complete copy is **not** the weights, where a network
without BN statistics leaves several.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["AmbiguousNames", "Selection", "select_weights", "weight_prefixes"]

Shape = tuple[int, ...]

_LISTED = 10
_MAX_PARTS = 16  # parts of a prefix; exp_avg_sq_row_network. has five
# What MindSpore's and MindCV's optimizers call their copies (`clone(prefix=...)` in nn/optim,
# mint/optim, experimental/optim and mindcv/optim).
_OPTIMIZER_COPIES = frozenset(
    {
        *("accum", "accum_update", "accu_grads", "adam_m", "adam_v", "ax", "ax_", "exp_avg"),
        *("exp_avg_sq", "exp_inf", "grad_accumulation", "lamb_m", "lamb_v", "linear", "lion_m"),
        *("max_exp_avg_sq", "mean_grad", "mean_square", "moment", "moment1", "moment2", "moment3"),
        *("moments", "momentum_buf", "nadam_m", "nadam_v", "prev", "prev_gradient", "stat"),
        *("step_size", "vhat"),
    }
)


class AmbiguousNames(Exception):
    """Several prefixes fit; the text lists them, ten at most.

    Args:
        prefixes: each of them completes the names of the whole network.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self.prefixes = tuple(prefixes)
        super().__init__(" and ".join(f"{prefix}*" for prefix in self.prefixes[:_LISTED]))


@dataclass(frozen=True)
class Selection:
    """What the names in a file are.

    Args:
        names: names in the file, and what they are without the network's prefix: the network's own
            names, or names that neither the network nor an optimizer has.
        prefixes: what was taken off.
        state: how many other names are an optimizer's or a trainer's state.
    """

    names: dict[str, str]
    prefixes: tuple[str, ...]
    state: int


def select_weights(
    stored: Mapping[str, Shape], needed: Mapping[str, Shape], trained: Collection[str]
) -> Selection:
    """Tell a network's weights from an optimizer's state.

    Args:
        stored: shapes by the names in the file.
        needed: shapes by the network's names.
        trained: those of the network's names that an optimizer trains (no BN statistics).

    Raises:
        AmbiguousNames: if several prefixes fit, and none is the plain name.
    """
    groups = _by_prefix(stored, needed)
    prefixes = _choose(groups, stored, needed, trained)
    names = {old: new for p in prefixes for new, old in groups.get(p, {}).items()}
    own = {name.partition(".")[0] for name in needed}
    state: set[str] = set()
    parents = {parent for prefix in prefixes for parent in _parents(prefix)}
    for prefix, copies in _optimizer_copies(groups, prefixes, stored, needed, trained):
        state.update(copies)
        parents.update(_parents(prefix))
    for name, shape in stored.items():
        if name in names or name in state:
            continue
        rest = _without(name, prefixes)
        counter = _is_counter(name, shape, parents) and rest.partition(".")[0] not in own
        if counter or _is_copy_of_other_weights(name, stored):
            state.add(name)
        else:  # one that would be taken for the weight itself gets another name
            names[name] = f"{name} (a second one)" if rest in needed else rest
    state -= names.keys()
    return Selection(names, tuple(filter(None, prefixes)), len(state))


def weight_prefixes(
    stored: Mapping[str, Shape], needed: Mapping[str, Shape], trained: Collection[str]
) -> tuple[str, ...]:
    """Find what stands before a network's names in a file.

    Args:
        stored: shapes by the names in the file.
        needed: shapes by the network's names.
        trained: those of the network's names that an optimizer trains.

    Returns:
        One prefix for all names ("" if they are plain), or two: that of trained weights, and that
        of the others. If none completes the network's names, that with the most of them.

    Raises:
        AmbiguousNames: if several fit.
    """
    return _choose(_by_prefix(stored, needed), stored, needed, trained)


def _by_prefix(stored: Iterable[str], needed: Collection[str]) -> dict[str, dict[str, str]]:
    """Group names by what stands before a network's name: prefix -> network's name -> name."""
    groups: dict[str, dict[str, str]] = {}
    for name in stored:
        for end in _ends_of_prefixes(name):
            if name[end:] in needed:
                groups.setdefault(name[:end], {})[name[end:]] = name
    return groups


def _ends_of_prefixes(name: str) -> Iterator[int]:
    yield 0
    end = 0
    for _ in range(_MAX_PARTS):
        ends = [name.find(mark, end) + 1 for mark in "._"]
        end = min((e for e in ends if e), default=0)
        if not end:
            return
        yield end


def _choose(
    groups: Mapping[str, Mapping[str, str]],
    stored: Mapping[str, Shape],
    needed: Mapping[str, Shape],
    trained: Collection[str],
) -> tuple[str, ...]:
    cells = {prefix: found for prefix, found in groups.items() if _may_be_cells(prefix)}
    reshaped = {
        prefix: sum(stored[old] != needed[new] for new, old in found.items())
        for prefix, found in cells.items()
        if len(found) == len(needed)
    }
    least = min(reshaped.values(), default=0)
    whole = _innermost(prefix for prefix, count in reshaped.items() if count == least)
    if len(whole) > 1:
        raise AmbiguousNames(whole)
    if whole:
        return (whole[0],)
    sets = set(trained), set(needed) - set(trained)
    parts = [_innermost(p for p, found in cells.items() if found.keys() == s) for s in sets]
    if all(parts):
        if max(map(len, parts)) > 1:
            raise AmbiguousNames(p for part in parts if len(part) > 1 for p in part)
        return (parts[0][0], parts[1][0])
    most = max(map(len, cells.values()), default=0)
    return (min((prefix for prefix, found in cells.items() if len(found) == most), default=""),)


def _optimizer_copies(
    groups: Mapping[str, Mapping[str, str]],
    prefixes: Collection[str],
    stored: Mapping[str, Shape],
    needed: Mapping[str, Shape],
    trained: Collection[str],
) -> Iterator[tuple[str, list[str]]]:
    """Yield the prefix and the names of each set of arrays that an optimizer keeps."""
    others = {prefix: found for prefix, found in groups.items() if prefix not in prefixes}
    complete = [p for p, found in others.items() if trained and found.keys() >= set(trained)]
    for prefix in complete:
        yield prefix, list(others[prefix].values())
    # If the other layers were frozen, an optimizer has copies of a few weights. So has a file of a
    # deeper network (layer5.conv1.weight). Only MindSpore's optimizers save a global_step; and what
    # such a file's optimizer has copies of, it has for every weight.
    if complete or not any(f".{name}".endswith(".global_step") for name in stored):
        return
    own = {name.partition(".")[0] for name in needed}
    for prefix, found in others.items():
        if prefix.endswith(".") and _without(prefix, prefixes).partition(".")[0] not in own:
            yield prefix, [old for new, old in found.items() if stored[old] == needed[new]]


def _is_copy_of_other_weights(name: str, stored: Collection[str]) -> bool:
    """Whether this is an optimizer's copy of a weight that the network doesn't have.

    The weight itself is an error, then; this keeps its copies out of the message.
    """
    return any(
        name[end:] in stored and not _may_be_cells(name[:end]) and name[end - 1] == "."
        for end in _ends_of_prefixes(name)
        if end
    )


def _may_be_cells(prefix: str) -> bool:
    """Whether a prefix may be names of cells: it ends with a dot, and names no optimizer's copy."""
    return not prefix or (
        prefix.endswith(".") and not _OPTIMIZER_COPIES.intersection(prefix.split("."))
    )


def _innermost(prefixes: Iterable[str]) -> list[str]:
    """Leave out prefixes that contain another one; they are copies of what that one names.

    >>> _innermost(["network.", "moments.network.", "network.ema.", "subnetwork."])
    ['network.', 'subnetwork.']
    """
    every = set(prefixes)
    inner = []
    for prefix in every:
        parts = [f"{part}." for part in prefix.split(".")[:-1]]
        inside = {"".join(parts[n:]) for n in range(1, len(parts) + 1)}
        if not every & (inside | _parents(prefix)):
            inner.append(prefix)
    return sorted(inner)


def _parents(name: str) -> set[str]:
    """List the cells around a prefix, the outermost first.

    >>> sorted(_parents("train.optimizer.adam_m."))
    ['', 'train.', 'train.optimizer.']
    """
    parts = [f"{part}." for part in name.rstrip(".").split(".", _MAX_PARTS)[:-1]]
    return {"".join(parts[:n]) for n in range(len(parts) + 1)} - {name}


def _without(name: str, prefixes: Iterable[str]) -> str:
    found = [prefix for prefix in prefixes if name.startswith(prefix)]
    return name[len(max(found, key=len)) :] if found else name


def _is_counter(name: str, shape: Shape, cells: Collection[str]) -> bool:
    """Whether this may be a trainer's count, rate or scale: one number, or a list of rates.

    Such a list belongs to no cell or to the optimizer's: ``learning_rate``,
    ``optimizer.learning_rate.learning_rate``.
    """
    if all(size == 1 for size in shape):
        return True
    return len(shape) == 1 and ("." not in name or any(c in cells for c in _parents(name) if c))
