"""A network in float16, with float32 input and output."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from mindcv_ghost.export.draft import Draft

__all__ = ["to_float16"]

_LARGEST = float(np.finfo(np.float16).max)
# Inputs that ONNX wants in float32 whatever the rest is in: the factors of a Resize.
_FLOAT32_INPUTS = {("Resize", 2)}


def to_float16(draft: Draft) -> None:
    """Let a network keep its weights and compute in float16; its input and output are cast.

    Weights and results have 11 significant bits instead of 24. Numbers beyond 65504 become 65504
    among the constants, and infinite where they are computed.

    Args:
        draft: changed in place.
    """
    for name, value in list(draft.constants.items()):
        if value.dtype == np.float32:
            _convert(draft, name, value)
    for node in draft.nodes("Cast"):
        if node.attributes["to"] == TensorProto.FLOAT:
            node.attributes["to"] = TensorProto.FLOAT16
    _cast_ends(draft)


def _convert(draft: Draft, name: str, value: np.ndarray) -> None:
    readers = draft.readers(name)
    kept = [n for n in readers if (n.kind, n.inputs.index(name)) in _FLOAT32_INPUTS]
    if len(kept) == len(readers):
        return
    if kept:
        copy = draft.constant(value, name)
        for node in kept:
            draft.rewire(node, node.inputs.index(name), copy)
    draft.constants[name] = np.clip(value, -_LARGEST, _LARGEST).astype(np.float16)


def _cast_ends(draft: Draft) -> None:
    readers = [node for node in draft.readers(draft.input) if node.kind != "Shape"]
    cast = draft.add("Cast", [draft.input], "", to=TensorProto.FLOAT16)
    for node in readers:
        draft.rewire(node, node.inputs.index(draft.input), cast.output)
    for output in list(draft.outputs):
        back = draft.add("Cast", [output], "", to=TensorProto.FLOAT)
        draft.inherit(back.output, output)
        draft.outputs = [back.output if name == output else name for name in draft.outputs]
