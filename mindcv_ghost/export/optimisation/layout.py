"""Nodes that only move numbers: those that move nothing go, and two in a row become one."""

from __future__ import annotations

from mindcv_ghost.export.draft import Draft, Node

__all__ = ["simplify_layout"]


def simplify_layout(draft: Draft) -> bool:
    """Remove and merge nodes that only move numbers."""
    return draft.rewrite(_RULES, lambda draft, node: _RULES[node.kind](draft, node))


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


def _batch_norm(draft: Draft, node: Node) -> bool:
    """``nn.BatchNorm1d`` normalises (N, C) as (N, C, 1, 1); ONNX takes it as it is."""
    before = draft.producer(node.inputs[0])
    source = draft.shapes.get(before.inputs[0]) if before and before.kind == "Reshape" else None
    wide = draft.shapes.get(node.inputs[0])
    if before is None or source is None or wide is None or len(source) != 2:
        return False
    if wide[:2] != source or any(n != 1 for n in wide[2:]) or not draft.only_reader(node.output):
        return False
    (after,) = draft.readers(node.output)
    if after.kind != "Reshape":
        return False
    draft.rewire(node, 0, before.inputs[0])
    draft.shapes[node.output] = source
    return True


_RULES = {
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Expand": _expand,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
