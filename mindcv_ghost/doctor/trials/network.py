"""The recipe's network without random masks, so that its loss can be computed twice."""

from __future__ import annotations

from mindspore import nn

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.config import Config
from mindcv_ghost.run.model import create_network

__all__ = ["build_network"]


def build_network(config: Config, classes: int) -> nn.Cell:
    """Build the recipe's network with random weights, with dropout and stochastic depth off.

    Args:
        config: with the model.
        classes: number of outputs.
    """
    network, _ = create_network(config.model, classes, load_initial_weights=False)
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Dropout):
            cell.p = 0.0
            cell.keep_prob = 1.0
        elif type(cell).__name__ == "DropPath":
            cell.keep_prob = 1.0
    return network
