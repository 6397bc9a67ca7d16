"""What depends on constants only is computed now."""

from __future__ import annotations

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mindcv_ghost.export.draft import Draft, Node

__all__ = ["OPSET", "fold_constants", "share_constants"]

OPSET = 20
"""Of the written files: the first with Gelu; 18 was the first whose Resize has antialiasing."""


def fold_constants(draft: Draft) -> bool:
    """Replace each node whose inputs are all constant by its value."""
    changed = False
    for node in draft.sorted_nodes():
        if all(name in draft.constants or not name for name in node.inputs):
            for name, value in zip(node.outputs, _evaluate(draft, node)):
                draft.replace(name, draft.constant(value, f"{node.name}_value"))
            draft.remove(node)
            changed = True
    return changed


def _evaluate(draft: Draft, node: Node) -> list[np.ndarray]:
    proto = helper.make_node(node.kind, node.inputs, node.outputs, **node.attributes)
    inputs = {name: draft.constants[name] for name in node.inputs if name}
    evaluator = ReferenceEvaluator(proto, opsets={"": OPSET})
    return [np.asarray(value) for value in evaluator.run(None, inputs)]


def share_constants(draft: Draft) -> None:
    """Keep one of several constants that are equal: the first."""
    first: dict[tuple, str] = {}
    for name, value in list(draft.constants.items()):
        key = (value.dtype, value.shape, value.tobytes())
        kept = first.setdefault(key, name)
        if kept != name:
            draft.replace(name, kept)
            del draft.constants[name]
