"""Linear layers: MindSpore reshapes to two dimensions and back for each, ONNX needs neither."""

from __future__ import annotations

from mindcv_ghost.export.draft import Draft, Node

__all__ = ["simplify_linear"]


def simplify_linear(draft: Draft) -> bool:
    """Drop the reshapes around linear layers; a product and a sum become one Gemm."""
    changed = False
    for node in draft.nodes("MatMul"):
        if draft.has(node):
            changed |= _without_reshapes(draft, node) or _gemm(draft, node)
    return changed


def _without_reshapes(draft: Draft, product: Node) -> bool:
    """Reshape to (-1, n), product with a constant, sum with one, reshape back: without the first.

    What stands between the sum and the reshape back may be anything that looks at each number
    alone.
    """
    first = draft.producer(product.inputs[0])
    if first is None or first.kind != "Reshape" or product.inputs[1] not in draft.constants:
        return False
    source = draft.shapes.get(first.inputs[0])
    flat = draft.shapes.get(first.output)
    if not source or not flat or len(flat) != 2 or source[-1] != flat[-1]:
        return False
    path = [product]
    while draft.only_reader(path[-1].output):
        (node,) = draft.readers(path[-1].output)
        if node.kind == "Reshape":
            break
        if not _is_elementwise(draft, node):
            return False
        path.append(node)
    else:
        return False
    width = draft.constants[product.inputs[1]].shape[1]
    target = draft.shapes.get(node.output)
    if target is None or target[-1] != width or target[:-1] != source[:-1]:
        # Another shape than before: the product of the unflattened tensor is reshaped instead.
        return False
    draft.rewire(product, 0, first.inputs[0])
    for step in path:
        draft.shapes[step.output] = target
    draft.replace(node.output, path[-1].output)
    draft.remove(node)
    return True


_ELEMENTWISE = (
    "Relu", "Gelu", "HardSwish", "HardSigmoid", "Sigmoid", "Clip", "Erf", "Tanh",
)  # fmt: skip


def _is_elementwise(draft: Draft, node: Node) -> bool:
    """A function of each number, or a sum or product with one constant for each column."""
    if node.kind in _ELEMENTWISE:
        return True
    if node.kind not in ("Add", "Mul", "Sub", "Div"):
        return False
    constants = [draft.constants[name] for name in node.inputs if name in draft.constants]
    return len(constants) == 1 and constants[0].ndim <= 1


def _gemm(draft: Draft, product: Node) -> bool:
    """MatMul of a matrix with a constant, and the sum with a constant vector."""
    weight = draft.constants.get(product.inputs[1])
    shape = draft.shapes.get(product.inputs[0])
    if weight is None or weight.ndim != 2 or shape is None or len(shape) != 2:
        return False
    if not draft.only_reader(product.output):
        return False
    (total,) = draft.readers(product.output)
    if total.kind != "Add":
        return False
    bias = total.inputs[1 - total.inputs.index(product.output)]
    value = draft.constants.get(bias)
    if value is None or value.shape != (weight.shape[1],):
        return False
    new = draft.add("Gemm", [*product.inputs, bias], product.scope)
    draft.inherit(new.output, total.output)
    draft.replace(total.output, new.output)
    draft.remove(total)
    draft.remove(product)
    return True
