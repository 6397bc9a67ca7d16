"""Nodes that only move numbers: those that move nothing go, and two in a row become one."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindcv_ghost.export.draft import Draft, Node
from mindcv_ghost.export.graph import Varying

__all__ = ["simplify_layout"]


def simplify_layout(draft: Draft) -> bool:
    """Remove and merge nodes that only move numbers."""
    changed = False
    for node in draft.nodes(*_RULES):
        if draft.has(node):
            changed |= _RULES[node.kind](draft, node)
    return changed


def _drop(draft: Draft, node: Node) -> bool:
    draft.replace(node.output, node.inputs[0])
    draft.remove(node)
    return True


def _transpose(draft: Draft, node: Node) -> bool:
    order = list(node.attributes["perm"])
    if order == sorted(order):
        return _drop(draft, node)
    before = draft.producer(node.inputs[0])
    if before is None or before.kind != "Transpose":
        return False
    node.attributes["perm"] = [before.attributes["perm"][axis] for axis in order]
    draft.rewire(node, 0, before.inputs[0])
    return True


def _reshape(draft: Draft, node: Node) -> bool:
    before = draft.producer(node.inputs[0])
    target = draft.constants.get(node.inputs[1])
    if before is not None and before.kind == "Reshape" and target is not None and 0 not in target:
        draft.rewire(node, 0, before.inputs[0])
        return True
    source = draft.shapes.get(node.inputs[0])
    if source is not None and draft.shapes.get(node.output) == source:
        return _drop(draft, node)
    return False


def _expand(draft: Draft, node: Node) -> bool:
    """Arithmetic expands by itself."""
    source, target = draft.shapes.get(node.inputs[0]), draft.shapes.get(node.output)
    return source is not None and source == target and _drop(draft, node)


def _cast(draft: Draft, node: Node) -> bool:
    source, target = draft.dtypes.get(node.inputs[0]), draft.dtypes.get(node.output)
    return source is not None and source == target and _drop(draft, node)


def _pad(draft: Draft, node: Node) -> bool:
    """Zeros around the input of a convolution are the convolution's own padding."""
    readers = draft.readers(node.output)
    pads = draft.constants.get(node.inputs[1])
    fill = draft.constants.get(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if pads is None or fill is None or node.attributes.get("mode", "constant") != "constant":
        return False
    if np.any(fill != 0) or len(pads) != 8 or np.any(pads < 0) or np.any(pads[[0, 1, 4, 5]]):
        return False
    own = pads[[2, 3, 6, 7]]
    if not all(n.kind == "Conv" and "pads" in n.attributes for n in readers):
        return False
    for reader in list(readers):
        reader.attributes["pads"] = [int(a + b) for a, b in zip(reader.attributes["pads"], own)]
    return _drop(draft, node)


def _concat(draft: Draft, node: Node) -> bool:
    """A tensor between constants, each one number expanded along all axes, is padded."""
    fills = [_fill(draft, name) for name in node.inputs]
    inner = [i for i, fill in enumerate(fills) if fill is None]
    axis, shape = node.attributes["axis"], draft.shapes.get(node.output)
    if len(inner) != 1 or len({*fills}) != 2 or shape is None:
        return False
    axis %= len(shape)
    place = inner[0]
    widths: list[Any] = [draft.shapes[name][axis] for name in node.inputs if name in draft.shapes]
    if len(widths) != len(fills) or any(isinstance(w, Varying) for w in widths):
        return False
    widths[place] = 0
    pads = np.zeros(2 * len(shape), np.int64)
    pads[axis], pads[len(shape) + axis] = sum(widths[:place]), sum(widths[place:])
    x, (fill,) = node.inputs[place], {*fills} - {None}
    names = [draft.constant(v, f"{node.name}_pad") for v in (pads, np.array(fill, draft.dtypes[x]))]
    new = draft.add("Pad", [x, *names], node.scope)
    draft.inherit(new.output, node.output)
    draft.replace(node.output, new.output)
    draft.remove(node)
    return True


def _fill(draft: Draft, name: str) -> float | None:
    """The number that a tensor consists of."""
    producer = draft.producer(name)
    expanded = producer.inputs[0] if producer is not None and producer.kind == "Expand" else ""
    value = draft.constants.get(expanded or name)
    if value is None or value.size == 0 or np.any(value != value.flat[0]):
        return None
    return value.flat[0].item()


_RULES = {
    "Concat": _concat,
    "Cast": _cast,
    "Expand": _expand,
    "Pad": _pad,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
