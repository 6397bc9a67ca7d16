"""Batch normalisation, and constant factors and summands, as a part of the weights before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindcv_ghost.export.draft import Draft, Node

__all__ = ["fold_factors"]


@dataclass(frozen=True)
class _Affine:
    """X times a factor plus a summand, each one number for each channel, or one for all."""

    factor: np.ndarray
    summand: np.ndarray


def fold_factors(draft: Draft) -> bool:
    """Fold x * factor + summand into the convolution or linear layer that computes x."""
    kinds = ("BatchNormalization", "Mul", "Div", "Add", "Sub")
    return draft.rewrite(kinds, _fold, _factor_before_sum)


def _fold(draft: Draft, node: Node) -> bool:
    found = _operand(draft, node)
    if found is None:
        return False
    name, layer = found
    if layer.kind not in ("Conv", "Gemm", "MatMul") or not draft.only_reader(name):
        return False
    weight = draft.constants.get(layer.inputs[1])
    if weight is None:
        return False
    channels = weight.shape[0] if layer.kind == "Conv" else weight.shape[-1]
    affine = _affine(draft, node, name, channels, from_the_end=layer.kind != "Conv")
    if affine is None or (layer.kind == "MatMul" and np.any(affine.summand != 0)):
        return False
    _apply(draft, layer, weight, affine)
    draft.inherit(layer.output, node.output)
    draft.replace(node.output, layer.output)
    draft.remove(node)
    return True


def _operand(draft: Draft, node: Node) -> tuple[str, Node] | None:
    """The computed input of a node whose other inputs are constants."""
    computed = [name for name in node.inputs if name not in draft.constants]
    if len(computed) != 1:
        return None
    producer = draft.producer(computed[0])
    return None if producer is None else (computed[0], producer)


def _affine(draft: Draft, node: Node, x: str, channels: int, from_the_end: bool) -> _Affine | None:
    """What a node does to each channel; None if it does anything else."""
    if node.kind == "BatchNormalization":
        if from_the_end and len(draft.shapes.get(node.output, ())) != 2:
            return None
        return batch_norm(draft, node)
    first = node.inputs[0] == x
    constant = draft.constants[node.inputs[1 if first else 0]].astype(np.float64)
    rank = len(draft.shapes.get(node.output, ()))
    vector = _per_channel(constant, channels, rank, from_the_end)
    if vector is None or rank == 0:
        return None
    if node.kind == "Add":
        return _Affine(np.ones(()), vector)
    if node.kind == "Mul":
        return _Affine(vector, np.zeros(()))
    if not first:
        return None
    return (
        _Affine(np.ones(()), -vector) if node.kind == "Sub" else _Affine(1 / vector, np.zeros(()))
    )


def batch_norm(draft: Draft, node: Node) -> _Affine:
    """Return what a batch normalisation does to each channel."""
    scale, offset, mean, variance = (
        draft.constants[name].astype(np.float64) for name in node.inputs[1:]
    )
    factor = scale / np.sqrt(variance + node.attributes["epsilon"])
    return _Affine(factor, offset - mean * factor)


def _per_channel(
    constant: np.ndarray, channels: int, rank: int, from_the_end: bool
) -> np.ndarray | None:
    """The numbers of a constant that is expanded along all axes but the channels'."""
    if constant.size == 1:
        return constant.reshape(())
    axis = rank - 1 if from_the_end else 1
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if constant.ndim > rank or constant.size != channels or shape[axis] != channels:
        return None
    return constant.reshape(channels)


def _apply(draft: Draft, layer: Node, weight: np.ndarray, affine: _Affine) -> None:
    """Change the weight and the bias of a layer."""
    shape = (-1, *(1,) * (weight.ndim - 1)) if layer.kind == "Conv" else (-1,)
    factor = affine.factor.reshape(shape) if affine.factor.ndim else affine.factor
    dtype = weight.dtype
    if np.any(affine.factor != 1):
        _set_constant(draft, layer, 1, (weight * factor).astype(dtype))
    if layer.kind == "MatMul":
        return
    channels = weight.shape[0] if layer.kind == "Conv" else weight.shape[-1]
    old = draft.constants[layer.inputs[2]].astype(np.float64) if len(layer.inputs) > 2 else 0.0
    bias = np.broadcast_to(old * affine.factor + affine.summand, (channels,))
    _set_constant(draft, layer, 2, bias.astype(dtype))


def _set_constant(draft: Draft, layer: Node, index: int, value: np.ndarray) -> None:
    """Give a layer another weight or bias, under the old name if nobody else reads it."""
    if index < len(layer.inputs):
        name = layer.inputs[index]
        if draft.only_reader(name):
            draft.constants[name] = value
            return
        draft.rewire(layer, index, draft.constant(value, name))
    else:
        draft.rewire(layer, index, draft.constant(value, bias_name(layer.inputs[1])))


def bias_name(weight: str) -> str:
    """Return a name for the bias of a layer that had none before."""
    return f"{weight[: -len('weight')]}bias" if weight.endswith("weight") else f"{weight}_bias"


def _factor_before_sum(draft: Draft, node: Node) -> bool:
    """(x + b) * c becomes x * c + b * c, for a MatMul before it to take c."""
    found = _operand(draft, node) if node.kind in ("Mul", "Div") else None
    if found is None or (node.kind == "Div" and node.inputs[0] != found[0]):
        return False
    name, total = found
    inner = _operand(draft, total) if total.kind == "Add" else None
    if inner is None or inner[1].kind != "MatMul" or not draft.only_reader(name):
        return False
    if not draft.only_reader(inner[0]) or inner[1].inputs[1] not in draft.constants:
        return False
    summand = next(n for n in total.inputs if n in draft.constants)
    factor = next(n for n in node.inputs if n in draft.constants)
    if draft.constants[factor].size > 1 and draft.constants[factor].ndim > 1:
        return False
    b, c = draft.constants[summand].astype(np.float64), draft.constants[factor].astype(np.float64)
    value = (b * c if node.kind == "Mul" else b / c).astype(draft.constants[summand].dtype)
    product = draft.add(node.kind, [inner[0], factor], node.scope)
    draft.inherit(product.output, node.output)
    renamed = draft.constant(value, summand)
    new = draft.add("Add", [product.output, renamed], total.scope)
    draft.inherit(new.output, node.output)
    draft.replace(node.output, new.output)
    draft.remove(node)
    draft.remove(total)
    return True
