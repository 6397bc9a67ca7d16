"""Parallel convolutions of one input whose outputs are added: one convolution.

This is how re-parameterised networks (RepVGG, RepGhost, GhostNetV3, RepMLP) get from their training
form to their deploy form. Source: Ding et al., "RepVGG" (arXiv 2101.03697), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindcv_ghost.export.draft import Draft, Node
from mindcv_ghost.export.optimisation.factors import batch_norm, bias_name

__all__ = ["merge_branches"]


@dataclass(frozen=True)
class _Branch:
    node: Node
    weight: np.ndarray
    bias: np.ndarray
    pads: tuple[int, ...]
    strides: tuple[int, ...]


def merge_branches(draft: Draft) -> bool:
    """Merge convolutions whose outputs are added, with batch normalisations of the same input."""
    return draft.rewrite(("Add",), _merge, _reorder)


def _merge(draft: Draft, total: Node) -> bool:
    nodes = [draft.producer(name) for name in total.inputs]
    if None in nodes or nodes[0] is nodes[1]:
        return False
    first, second = _branches(draft, [n for n in nodes if n is not None])
    if first is None or second is None:
        return False
    merged = _sum(first, second)
    if merged is None:
        return False
    conv = first.node if first.node.kind == "Conv" else second.node
    stem = conv.inputs[1]
    weight, bias, pads = merged
    if draft.only_reader(stem):
        draft.constants[stem] = weight
    else:
        stem = draft.constant(weight, stem)
    inputs = [conv.inputs[0], stem, draft.constant(bias, bias_name(stem))]
    attributes = {**conv.attributes, "kernel_shape": weight.shape[2:], "pads": pads}
    new = draft.add("Conv", inputs, conv.scope, **attributes)
    draft.inherit(new.output, total.output)
    draft.replace(total.output, new.output)
    draft.remove(total)
    for branch in (first, second):
        draft.remove(branch.node)
    return True


def _branches(draft: Draft, nodes: list[Node]) -> tuple[_Branch | None, _Branch | None]:
    convolutions = [_convolution(draft, n) if n.kind == "Conv" else None for n in nodes]
    if all(convolutions):
        return convolutions[0], convolutions[1]
    for conv, other in ((convolutions[0], nodes[1]), (convolutions[1], nodes[0])):
        if conv is not None and other.kind == "BatchNormalization":
            return conv, _identity(draft, other, conv)
    return None, None


def _convolution(draft: Draft, node: Node) -> _Branch | None:
    weight = draft.constants.get(node.inputs[1])
    given = node.attributes
    if weight is None or weight.ndim != 4 or "pads" not in given:
        return None
    if not draft.only_reader(node.output) or any(d != 1 for d in given["dilations"]):
        return None
    bias = draft.constants.get(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(weight))
    if bias is None:
        return None
    return _Branch(node, weight, bias, tuple(given["pads"]), tuple(given["strides"]))


def _identity(draft: Draft, node: Node, conv: _Branch) -> _Branch | None:
    """A batch normalisation as a 1x1 convolution with the other one's groups."""
    if node.inputs[0] != conv.node.inputs[0] or not draft.only_reader(node.output):
        return None
    affine = batch_norm(draft, node)
    channels, width = len(affine.factor), conv.weight.shape[1]
    if conv.weight.shape[0] != channels or any(s != 1 for s in conv.strides):
        return None
    weight = np.zeros((channels, width, 1, 1))
    weight[np.arange(channels), np.arange(channels) % width] = affine.factor[:, None, None]
    return _Branch(node, weight, affine.summand, (0, 0, 0, 0), (1, 1))


def _sum(a: _Branch, b: _Branch) -> tuple[np.ndarray, np.ndarray, list[int]] | None:
    """Weight, bias and padding of the sum of two branches; None if they don't fit."""
    same_groups = b.node.kind != "Conv" or a.node.attributes["group"] == b.node.attributes["group"]
    if a.node.inputs[0] != b.node.inputs[0] or a.strides != b.strides or not same_groups:
        return None
    weights = []
    # The kernels' margins: how far each reaches beyond the input. The smaller gets rows of zeros.
    pads = [max(numbers) for numbers in zip(a.pads, b.pads)]
    for branch in (a, b):
        more = [p - own for p, own in zip(pads, branch.pads)]
        weights.append(np.pad(branch.weight, ((0, 0), (0, 0), more[0::2], more[1::2])))
    apart = a.weight.size + b.weight.size
    if weights[0].shape != weights[1].shape or weights[0].size > apart:
        return None  # a cross of 1x3 and 3x1 has fewer products than a square
    dtype = a.weight.dtype
    weight = weights[0].astype(np.float64) + weights[1]
    bias = a.bias.astype(np.float64) + b.bias
    return weight.astype(dtype), bias.astype(dtype), pads


def _reorder(draft: Draft, total: Node) -> bool:
    """(a + b) + c becomes a + (b + c) where b and c can be merged and a and b can't."""
    for place in (0, 1):
        inner = draft.producer(total.inputs[place])
        if inner is None or inner.kind != "Add" or not draft.only_reader(inner.output):
            continue
        other = draft.producer(total.inputs[1 - place])
        if other is None:
            continue
        for keep in (0, 1):
            partner = draft.producer(inner.inputs[1 - keep])
            if partner is None or partner is other:
                continue
            first, second = _branches(draft, [partner, other])
            if first is None or second is None or _sum(first, second) is None:
                continue
            kept, moved, outer = inner.inputs[keep], inner.inputs[1 - keep], total.inputs[1 - place]
            sum_of_two = draft.add("Add", [moved, outer], total.scope)
            draft.inherit(sum_of_two.output, total.output)
            new = draft.add("Add", [kept, sum_of_two.output], total.scope)
            draft.inherit(new.output, total.output)
            draft.replace(total.output, new.output)
            draft.remove(total)
            draft.remove(inner)
            return True
    return False
