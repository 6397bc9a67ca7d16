"""What is computed twice is computed once."""

from __future__ import annotations

from mindcv_ghost.export.draft import Draft
from mindcv_ghost.export.optimisation.constants import share_constants

__all__ = ["merge_repetition"]


def merge_repetition(draft: Draft) -> bool:
    """Merge nodes of the same kind with the same inputs and attributes."""
    changed = False
    share_constants(draft)
    first: dict[tuple, list[str]] = {}
    for node in draft.sorted_nodes():
        attributes = sorted((k, repr(v)) for k, v in node.attributes.items())
        key = (node.kind, *node.inputs, "", *map(str, attributes))
        kept = first.setdefault(key, node.outputs)
        if kept is not node.outputs:
            for old, new in zip(node.outputs, kept):
                draft.replace(old, new)
            draft.remove(node)
            changed = True
    return changed
