"""The mark of an accelerated network, for functions that exchange cells of networks."""

from __future__ import annotations

from mindspore import nn

from mindcv_ghost.errors import UserError

__all__ = ["Accelerated", "ordinary_class", "refuse_accelerated"]


class Accelerated:
    """A base of every cell that computes with native operators, also for cells below it."""


def ordinary_class(cell: nn.Cell) -> type[nn.Cell]:
    """Return the class that a cell has when it isn't accelerated."""
    classes = type(cell).__mro__
    return next(c for c in classes if issubclass(c, nn.Cell) and not issubclass(c, Accelerated))


def refuse_accelerated(network: nn.Cell, what: str) -> None:
    """Refuse an accelerated network where cells are exchanged for others.

    A native cell also computes for cells below it, which it never calls; what replaces one of those
    would have no effect.

    Args:
        network: of any kind.
        what: would exchange cells; the message begins with it.

    Raises:
        UserError: if the network is accelerated, as a whole or in part.
    """
    if any(isinstance(cell, Accelerated) for _, cell in network.cells_and_names()):
        raise UserError(
            f"{what} changes the cells of a network, and this one is accelerated: call "
            "mindcv_ghost.decelerate(network) before, and mindcv_ghost.accelerate(network) after"
        )
