"""Putting other cells into a network."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import nn

__all__ = ["replace_cells"]


def replace_cells(network: nn.Cell, exchange: Mapping[int, nn.Cell]) -> None:
    """Replace cells wherever a network refers to them; the network itself isn't replaced.

    Args:
        network: changed in place. Names of parameters stay.
        exchange: ``id`` of a cell -> the cell that takes its places.
    """
    for parent in [cell for _, cell in network.cells_and_names()]:
        # name_cells() would leave out a cell's second place in the same parent.
        for name, child in parent._cells.items():
            if id(child) in exchange:
                # setattr would prefix the parameters' names a second time.
                parent._cells[name] = exchange[id(child)]
        # Lists hold cells, too: a SequentialCell runs the cells of its own list.
        for name, value in vars(parent).items():
            if isinstance(value, (list, tuple)) and any(id(cell) in exchange for cell in value):
                new = [exchange.get(id(cell), cell) for cell in value]
                parent.__dict__[name] = type(value)(new)
