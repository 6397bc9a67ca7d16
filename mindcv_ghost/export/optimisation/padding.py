"""Padding, however a network spells it, as one node or as a part of the layer after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindcv_ghost.export.draft import Draft, Node
from mindcv_ghost.export.graph import Varying

__all__ = ["simplify_padding"]


def simplify_padding(draft: Draft) -> bool:
    """Let convolutions and max pools do the padding before them."""
    return draft.rewrite(
        _RULES, lambda draft, node: any(rule(draft, node) for rule in _RULES[node.kind])
    )


def _pad_of_convolutions(draft: Draft, node: Node) -> bool:
    """Zeros around the input of a convolution are the convolution's own padding."""
    readers = draft.readers(node.output)
    pads = draft.constants.get(node.inputs[1])
    fill = draft.constants.get(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if pads is None or fill is None or node.attributes.get("mode", "constant") != "constant":
        return False
    if np.any(fill != 0) or len(pads) != 8 or np.any(pads < 0) or np.any(pads[[0, 1, 4, 5]]):
        return False
    own = pads[[2, 3, 6, 7]]
    if not readers or not all(n.kind == "Conv" and "pads" in n.attributes for n in readers):
        return False
    for reader in list(readers):
        reader.attributes["pads"] = [int(a + b) for a, b in zip(reader.attributes["pads"], own)]
    draft.replace(node.output, node.inputs[0])
    draft.remove(node)
    return True


def _concat_of_numbers(draft: Draft, node: Node) -> bool:
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


def _concat_of_edges(draft: Draft, node: Node) -> bool:
    """A feature map between its own first and last row (or column) is padded by its edges."""
    axis = node.attributes["axis"]
    if len(node.inputs) != 3 or axis not in (2, 3):
        return False
    before, x, after = node.inputs
    if not _is_slice(draft, before, x, axis, 0) or not _is_slice(draft, after, x, axis, -1):
        return False
    pads = np.zeros(8, np.int64)
    pads[[axis, 4 + axis]] = 1
    inner = draft.producer(x)
    if inner is not None and inner.kind == "Pad" and inner.attributes.get("mode") == "edge":
        x, pads = inner.inputs[0], pads + draft.constants[inner.inputs[1]]
    name = draft.constant(pads, f"{node.name}_pads")
    new = draft.add("Pad", [x, name], node.scope, mode="edge")
    draft.inherit(new.output, node.output)
    draft.replace(node.output, new.output)
    draft.remove(node)
    return True


def _is_slice(draft: Draft, name: str, x: str, axis: int, begin: int) -> bool:
    """Whether a tensor is the first row of another one (begin 0), or the last one (-1)."""
    node = draft.producer(name)
    if node is None or node.kind != "Slice" or node.inputs[0] != x:
        return False
    numbers = [draft.constants.get(i) for i in node.inputs[1:]]
    if any(n is None or n.size != 1 for n in numbers):
        return False
    first, last, along, stride = (int(n[0]) for n in numbers if n is not None)
    is_one = last == 1 if begin == 0 else last > 1 << 30
    return (first, along, stride) == (begin, axis, 1) and is_one


def _pad_of_max_pool(draft: Draft, node: Node) -> bool:
    """A copy of the edge doesn't change a maximum over a window that has the edge, too."""
    pad = draft.producer(node.inputs[0])
    if pad is None or pad.kind != "Pad" or pad.attributes.get("mode") != "edge":
        return False
    pads, own = draft.constants[pad.inputs[1]], node.attributes.get("pads")
    if own is None or any(own) or len(pads) != 8 or np.any(pads[[0, 1, 4, 5]]):
        return False
    new = [int(n) for n in pads[[2, 3, 6, 7]]]
    if any(p >= k for p, k in zip(new, 2 * tuple(node.attributes["kernel_shape"]))):
        return False
    node.attributes["pads"] = new
    draft.rewire(node, 0, pad.inputs[0])
    return True


_RULES = {
    "Concat": (_concat_of_numbers, _concat_of_edges),
    "MaxPool": (_pad_of_max_pool,),
    "Pad": (_pad_of_convolutions,),
}
