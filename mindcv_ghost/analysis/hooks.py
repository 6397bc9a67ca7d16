"""Run a network eagerly, in evaluation mode, with hooks on its cells; restore it afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Callable

import mindspore as ms
from mindspore import nn

from mindcv_ghost.errors import ConfigError, first_line
from mindcv_ghost.kernels.exchange import ordinary_cells

__all__ = [
    "evaluate_with_hooks",
    "evaluation_mode",
    "first_convolution",
    "leaf_cells",
    "tells_unfit_images",
]

Hook = Callable[[str, nn.Cell, "tuple[Any, ...]", Any], Any]


@contextmanager
def evaluate_with_hooks(
    network: nn.Cell, cells: Mapping[str, nn.Cell], hook: Hook
) -> Iterator[None]:
    """Set PyNative mode, evaluation mode and forward hooks; restore everything afterwards.

    An accelerated network runs on its ordinary cells: native ones don't call all cells below them.

    Args:
        network: to be run inside the ``with`` block.
        cells: cells of the network, by path.
        hook: called as ``hook(path, cell, inputs, output)`` after each run of one of the cells. If
            it returns anything but None, this replaces the cell's output.
    """
    with ExitStack() as stack:
        stack.enter_context(ordinary_cells(network))
        stack.enter_context(_pynative_mode())
        stack.enter_context(evaluation_mode(network))
        stack.enter_context(_forward_hooks(cells, hook))
        yield


@contextmanager
def _pynative_mode() -> Iterator[None]:
    """Switch to PyNative mode, the only mode that runs hooks."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


@contextmanager
def evaluation_mode(network: nn.Cell) -> Iterator[None]:
    """Switch to evaluation mode; restore each cell's own training flag afterwards."""
    phase = network.phase
    flags = [(cell, cell.training) for _, cell in network.cells_and_names()]
    network.set_train(False)
    try:
        yield
    finally:
        # set_train would also change the children, but a frozen part may differ from its parent.
        for cell, training in flags:
            cell.add_flags(training=training)
        network.phase = phase


@contextmanager
def _forward_hooks(cells: Mapping[str, nn.Cell], hook: Hook) -> Iterator[None]:
    """Register a forward hook on each of the cells; remove all of them afterwards."""
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
def tells_unfit_images(model: str, image_size: int) -> Iterator[None]:
    """Turn what a network raises for images of another size than it takes into a message.

    Args:
        model: its name.
        image_size: the side of the images on which it is run inside the ``with`` block.

    Raises:
        ConfigError: with the first line of the network's own message.
    """
    try:
        yield
    except (ValueError, RuntimeError, TypeError) as problem:
        raise ConfigError(
            f"{model} can't be run on images of {image_size}x{image_size}: {first_line(problem)}. "
            "Give another --image_size."
        ) from problem


def leaf_cells(network: nn.Cell, kinds: tuple[type, ...] = ()) -> dict[str, nn.Cell]:
    """Find the cells without children, each under the first path that leads to it.

    Args:
        network: any network.
        kinds: cells to return even with children: a linear layer's activation is one.
    """
    with ordinary_cells(network):  # native ones have an operator below them
        return {
            name: cell
            for name, cell in network.cells_and_names()
            if not cell.name_cells() or isinstance(cell, kinds)
        }


def first_convolution(network: nn.Cell) -> nn.Conv2d | None:
    """Find the convolution that is declared first; its inputs are the images' channels."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            return cell
    return None
