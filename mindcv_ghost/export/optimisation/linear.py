"""Linear layers: MindSpore reshapes to two dimensions and back for each, ONNX needs neither."""

from __future__ import annotations

import numpy as np

from mindcv_ghost.export.draft import Draft, Node
from mindcv_ghost.export.graph import Varying

__all__ = ["simplify_linear"]


def simplify_linear(draft: Draft) -> bool:
    """Drop the reshapes around linear layers; a product and a sum become one Gemm."""
    return draft.rewrite(("MatMul",), _without_reshapes, _gemm)


def _without_reshapes(draft: Draft, product: Node) -> bool:
    """Let a product of a flattened tensor with a constant be one of the tensor itself.

    Between the product and the reshape after it may be anything that looks at each number alone. If
    the flattened tensor has other columns, it gets the rows of the result instead.
    """
    first = draft.producer(product.inputs[0])
    if first is None or first.kind != "Reshape" or product.inputs[1] not in draft.constants:
        return False
    source = draft.shapes.get(first.inputs[0])
    flat = draft.shapes.get(first.output)
    path = _path_to_reshape(draft, product)
    if not source or not flat or len(flat) != 2 or len(source) < 3 or not path:
        return False
    width = draft.constants[product.inputs[1]].shape[1]
    last = path.pop()
    target = draft.shapes.get(last.output)
    if source[-1] == flat[-1]:
        draft.rewire(product, 0, first.inputs[0])
        rows = source[:-1]
    elif target is not None and target[-1] == width and len(target) > 2:
        numbers = [-1 if isinstance(n, Varying) else n for n in (*target[:-1], flat[-1])]
        if numbers.count(-1) > 1:
            return False
        vector = draft.constant(np.array(numbers), f"{first.name}_shape")
        new = draft.add("Reshape", [first.inputs[0], vector], first.scope)
        draft.shapes[new.output] = (*target[:-1], flat[-1])
        draft.dtypes[new.output] = draft.dtypes[last.output]
        draft.rewire(product, 0, new.output)
        rows = target[:-1]
    else:
        return False
    for node in path:
        draft.shapes[node.output] = (*rows, width)
        draft.dtypes[node.output] = draft.dtypes[first.output]
    return True


def _path_to_reshape(draft: Draft, product: Node) -> list[Node]:
    """The nodes from a product to the next reshape; [] if something else comes first."""
    path = [product]
    while draft.only_reader(path[-1].output):
        (node,) = draft.readers(path[-1].output)
        path.append(node)
        if node.kind == "Reshape":
            target = draft.constants.get(node.inputs[1])
            return path if target is not None and 0 not in target else []
        if not _is_elementwise(draft, node):
            return []
    return []


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
