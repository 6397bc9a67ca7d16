"""An ONNX graph in the making, which can be read and changed in any direction."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mindcv_ghost.export.graph import Shape

__all__ = ["Draft", "Node"]


@dataclass(eq=False)
class Node:
    """A node of ONNX.

    Args:
        kind: its operator.
        name: unique in the graph.
        inputs: names of tensors; "" for one that is left out.
        outputs: names of tensors.
        attributes: by name.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The first output; most nodes have one."""
        return self.outputs[0]

    @property
    def scope(self) -> str:
        """The part of the name that says in which layer the node is."""
        return self.name.rpartition("/")[0]


class Draft:
    """Nodes and constants, and who reads what.

    Attributes:
        constants: values by name.
        shapes: of tensors by name, where MindSpore's graph had them.
        dtypes: likewise.
        input: the batch of images.
        outputs: tensors that the network returns.

    Args:
        input: name of the batch of images.
    """

    def __init__(self, input: str) -> None:
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.input = input
        self.outputs: list[str] = []
        self._nodes: dict[str, Node] = {}
        self._producers: dict[str, Node] = {}
        self._readers: dict[str, list[Node]] = {}
        self._taken = {input}

    def new_name(self, name: str) -> str:
        """Reserve a name for a node or a tensor: the given one, with a number if it is taken."""
        candidates = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
        free = next(c for c in candidates if c not in self._taken)
        self._taken.add(free)
        return free

    def constant(self, value: Any, name: str) -> str:
        """Add a constant and return its name."""
        name = self.new_name(name)
        self.constants[name] = np.asarray(value)
        return name

    def add(
        self, kind: str, inputs: Sequence[str], scope: str, outputs: int = 1, **attributes: Any
    ) -> Node:
        """Add a node, named by its scope and kind."""
        name = self.new_name(f"{scope}/{kind}" if scope else kind)
        names = [self.new_name(f"{name}_output{i or ''}") for i in range(outputs)]
        node = Node(kind, name, list(inputs), names, attributes)
        self._nodes[name] = node
        for tensor in node.inputs:
            self._readers.setdefault(tensor, []).append(node)
        for tensor in node.outputs:
            self._producers[tensor] = node
        return node

    def inherit(self, tensor: str, other: str) -> None:
        """Note that a tensor has the shape and type of another one."""
        if other in self.shapes:
            self.shapes[tensor], self.dtypes[tensor] = self.shapes[other], self.dtypes[other]

    def nodes(self, *kinds: str) -> list[Node]:
        """Return the nodes of some kinds, or all, as they are now."""
        return [n for n in self._nodes.values() if not kinds or n.kind in kinds]

    def has(self, node: Node) -> bool:
        """Whether a node is still in the graph."""
        return self._nodes.get(node.name) is node

    def rewrite(self, kinds: Iterable[str], *rules: Callable[[Draft, Node], bool]) -> bool:
        """Apply rules to the nodes of some kinds; to each the first rule that changes anything.

        Args:
            kinds: of the nodes. What a rule adds is left for the next call.
            rules: change the draft around a node and tell whether they did.

        Returns:
            Whether any rule changed anything.
        """
        changed = False
        for node in self.nodes(*kinds):
            if self.has(node):  # unless a rule has removed it
                changed |= any(rule(self, node) for rule in rules)
        return changed

    def producer(self, tensor: str) -> Node | None:
        """Return the node that computes a tensor; None for the input and constants."""
        return self._producers.get(tensor)

    def readers(self, tensor: str) -> list[Node]:
        """Return the nodes that read a tensor, one as often as it does."""
        return self._readers.get(tensor, [])

    def only_reader(self, tensor: str) -> bool:
        """Whether a tensor is read once, and isn't an output of the network."""
        return len(self.readers(tensor)) == 1 and tensor not in self.outputs

    def rewire(self, node: Node, index: int, tensor: str) -> None:
        """Let a node read another tensor as one of its inputs; it is appended if there is none."""
        if index < len(node.inputs):
            self._readers[node.inputs[index]].remove(node)
            node.inputs[index] = tensor
        else:
            node.inputs.append(tensor)
        self._readers.setdefault(tensor, []).append(node)

    def replace(self, old: str, new: str) -> None:
        """Let everything that reads one tensor read another one instead."""
        for node in list(self.readers(old)):
            self.rewire(node, node.inputs.index(old), new)
        self.outputs = [new if name == old else name for name in self.outputs]

    def remove(self, node: Node) -> None:
        """Remove a node; nothing may read its outputs any more."""
        del self._nodes[node.name]
        for tensor in node.inputs:
            self._readers[tensor].remove(node)
        for tensor in node.outputs:
            del self._producers[tensor]

    def remove_dead(self) -> None:
        """Remove nodes and constants that no output depends on."""
        waiting = self.nodes()
        while waiting:
            node = waiting.pop()
            if self.has(node) and not any(
                self.readers(t) or t in self.outputs for t in node.outputs
            ):
                self.remove(node)
                waiting += [p for p in map(self.producer, node.inputs) if p is not None]
        for name in list(self.constants):
            if not self.readers(name) and name not in self.outputs:
                del self.constants[name]

    def sorted_nodes(self) -> list[Node]:
        """Return all nodes so that each comes after those that it reads."""
        done: set[str] = set()
        order: list[Node] = []
        for last in self.nodes():
            stack = [last]
            while stack:
                node = stack[-1]
                missing = [
                    p
                    for p in map(self.producer, node.inputs)
                    if p is not None and p.name not in done
                ]
                if missing:
                    stack += missing
                    continue
                stack.pop()
                if node.name not in done:
                    done.add(node.name)
                    order.append(node)
        return order

    def rename(self, old: str, new: str) -> None:
        """Give a computed tensor another name, which must be free."""
        node = self._producers.pop(old)
        node.outputs[node.outputs.index(old)] = new
        self._producers[new] = node
        self._taken.add(new)
        self.inherit(new, old)
        self.replace(old, new)

    def to_onnx(
        self,
        name: str,
        inputs: Iterable[onnx.ValueInfoProto],
        outputs: Iterable[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """Return the graph as ONNX's protobuf message."""
        return helper.make_graph(
            [
                helper.make_node(n.kind, n.inputs, n.outputs, n.name, **n.attributes)
                for n in self.sorted_nodes()
            ],
            name,
            list(inputs),
            list(outputs),
            [numpy_helper.from_array(v, n) for n, v in self.constants.items()],
        )
