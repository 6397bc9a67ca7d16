"""Activation functions that a network spells out, as the one node that ONNX has for them."""

from __future__ import annotations

import math

import numpy as np

from mindcv_ghost.export.draft import Draft, Node

__all__ = ["recognise_activations"]


def recognise_activations(draft: Draft) -> bool:
    """Replace formulas of HardSigmoid, HardSwish and Gelu by these nodes."""
    return draft.rewrite(("Div", "Mul"), _hard_sigmoid, _hard_swish, _gelu)


def _hard_sigmoid(draft: Draft, node: Node) -> bool:
    """relu6(x + 3) / 6."""
    clip = _operand(draft, node, 6.0 if node.kind == "Div" else 1 / 6)
    if clip is None or clip.kind != "Clip" or not draft.only_reader(clip.output):
        return False
    if [_scalar(draft, name) for name in clip.inputs[1:]] != [0, 6]:
        return False
    add = draft.producer(clip.inputs[0])
    x = _other_input(draft, add, "Add", 3.0)
    if x is None:
        return False
    new = draft.add("HardSigmoid", [x], node.scope, alpha=1 / 6, beta=0.5)
    return _put(draft, node, new)


def _hard_swish(draft: Draft, node: Node) -> bool:
    """X times its HardSigmoid with slope 1/6."""
    if node.kind != "Mul":
        return False
    for x, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = draft.producer(gate)
        if (
            sigmoid is not None
            and sigmoid.kind == "HardSigmoid"
            and sigmoid.inputs == [x]
            and math.isclose(sigmoid.attributes["alpha"], 1 / 6)
            and draft.only_reader(gate)
        ):
            return _put(draft, node, draft.add("HardSwish", [x], node.scope))
    return False


def _gelu(draft: Draft, node: Node) -> bool:
    """0.5 x (1 + erf(x / sqrt 2)), with the factors in any order."""
    if node.kind != "Mul":
        return False
    half, factors = 1.0, []
    for name in _factors(draft, node):
        constant = _scalar(draft, name)
        if constant is None:
            factors.append(name)
        else:
            half *= constant
    if len(factors) != 2 or not math.isclose(half, 0.5, rel_tol=1e-6):
        return False
    for x, bracket in (factors, factors[::-1]):
        erf_output = _other_input(draft, draft.producer(bracket), "Add", 1.0)
        erf = draft.producer(erf_output) if erf_output else None
        scaled = draft.producer(erf.inputs[0]) if erf is not None and erf.kind == "Erf" else None
        if scaled is not None and _is_scaled(draft, scaled, x, 1 / math.sqrt(2)):
            return _put(draft, node, draft.add("Gelu", [x], node.scope))
    return False


def _factors(draft: Draft, node: Node) -> list[str]:
    """The factors of a product whose partial products nobody else reads."""
    factors = []
    for name in node.inputs:
        inner = draft.producer(name)
        if inner is not None and inner.kind == "Mul" and draft.only_reader(name):
            factors += _factors(draft, inner)
        else:
            factors.append(name)
    return factors


def _is_scaled(draft: Draft, node: Node, x: str, factor: float) -> bool:
    if node.kind == "Div":
        constant = _scalar(draft, node.inputs[1])
        given = 1 / constant if constant else None
        return (
            node.inputs[0] == x and given is not None and math.isclose(given, factor, rel_tol=1e-6)
        )
    if node.kind != "Mul" or x not in node.inputs:
        return False
    other = node.inputs[1 - node.inputs.index(x)]
    constant = _scalar(draft, other)
    return constant is not None and math.isclose(constant, factor, rel_tol=1e-6)


def _operand(draft: Draft, node: Node, constant: float) -> Node | None:
    """The node that computes what is combined with a constant."""
    name = _other_input(draft, node, node.kind, constant)
    return draft.producer(name) if name else None


def _other_input(draft: Draft, node: Node | None, kind: str, constant: float) -> str | None:
    """The input beside a scalar constant of some value."""
    if node is None or node.kind != kind:
        return None
    places = (1,) if kind == "Div" else (1, 0)
    for i in places:
        value = _scalar(draft, node.inputs[i])
        if value is not None and math.isclose(value, constant, rel_tol=1e-6):
            return node.inputs[1 - i]
    return None


def _scalar(draft: Draft, name: str) -> float | None:
    value = draft.constants.get(name)
    return float(np.ravel(value)[0]) if value is not None and value.size == 1 else None


def _put(draft: Draft, old: Node, new: Node) -> bool:
    draft.inherit(new.output, old.output)
    draft.replace(old.output, new.output)
    draft.remove(old)
    return True
