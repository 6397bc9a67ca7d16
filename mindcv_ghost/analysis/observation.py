"""Looking on while a network runs: eagerly, in evaluation mode, every change taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Callable

import mindspore as ms
from mindspore import nn

__all__ = ["eager", "evaluating", "first_convolution", "forward_hooks", "leaves", "observed"]

Hook = Callable[[str, nn.Cell, "tuple[Any, ...]", Any], Any]


@contextmanager
def eager() -> Iterator[None]:
    """PyNative mode, where hooks run."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


@contextmanager
def evaluating(network: nn.Cell) -> Iterator[None]:
    """Evaluation mode, each cell's own flag restored afterwards."""
    phase = network.phase
    flags = [(cell, cell.training) for _, cell in network.cells_and_names()]
    network.set_train(False)
    try:
        yield
    finally:
        # Not by set_train, which goes down into the children: a frozen part may differ.
        for cell, training in flags:
            cell.add_flags(training=training)
        network.phase = phase


def leaves(network: nn.Cell) -> dict[str, nn.Cell]:
    """The cells without cells in them, each under the path it has first."""
    return {name: cell for name, cell in network.cells_and_names() if not cell.name_cells()}


@contextmanager
def forward_hooks(cells: dict[str, nn.Cell], hook: Hook) -> Iterator[None]:
    """Have ``hook(name, cell, inputs, output)`` called behind every run of these cells.

    What it returns, unless None, stands for the cell's output.
    """
    handles = []
    for name, cell in cells.items():

        def call(cell: nn.Cell, inputs: Any, output: Any, name: str = name) -> Any:
            return hook(name, cell, inputs, output)

        handles.append(cell.register_forward_hook(call))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observed(network: nn.Cell, cells: dict[str, nn.Cell], hook: Hook) -> Iterator[None]:
    """All three: eager, evaluating, with hooks on ``cells``."""
    with ExitStack() as stack:
        stack.enter_context(eager())
        stack.enter_context(evaluating(network))
        stack.enter_context(forward_hooks(cells, hook))
        yield


def first_convolution(network: nn.Cell) -> nn.Conv2d | None:
    """The convolution that is declared first: it tells how many channels the images have."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            return cell
    return None
