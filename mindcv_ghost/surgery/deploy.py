"""Convert a re-parameterised network from its training form to its deploy form."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.kernels.exchange import ordinary_cells
from mindcv_ghost.layers.ghost_module import GhostModule
from mindcv_ghost.layers.rep_conv import RepConv

__all__ = ["deploy", "has_deploy_form"]


def has_deploy_form(network: nn.Cell) -> bool:
    """Tell whether :func:`deploy` applies: the network has parallel branches that can be merged.

    It doesn't after ``ghostify``: there is no deploy form with other layers than the training form.
    """
    cells = [cell for _, cell in network.cells_and_names()]
    return (
        hasattr(network, "with_arguments")
        and any(isinstance(cell, RepConv) and not cell.deployed for cell in cells)
        and not any(isinstance(cell, GhostModule) for cell in cells)
    )


def deploy(network: nn.Cell) -> nn.Cell:
    """Merge each set of parallel branches into one convolution, with the same results.

    The given network stays unchanged and can go on training.

    Args:
        network: ``ghostnetv3_*`` or ``repghostnet_*`` in training form.

    Returns:
        A new network in evaluation mode, as ``create_model(name, deploy=True)`` builds it.

    Raises:
        ValueError: if the network has no deploy form, is already in it, or has other layers than it
            was built with.

    Source: Ding et al., "RepVGG" (arXiv 2101.03697), section 3.3.
    """
    if not has_deploy_form(network):
        raise ValueError(
            f"{type(network).__name__} has no parallel branches to merge; give a ghostnetv3_* or "
            f"repghostnet_* in training form, without ghostify"
        )
    deployed = network.with_arguments(deploy=True)
    with ordinary_cells(network):
        values = _merged(network)
    # By path: a cell that contains the network puts its own name before the parameters' names.
    places = dict(deployed.parameters_and_names())
    other = sorted(path for path in places if path not in values)
    if other:
        raise ValueError(
            f"{type(network).__name__} isn't as it was built: it has no {other[0]}. Branches can't "
            "be merged after layers were replaced, by ghostify or otherwise"
        )
    # set_data is safe here: the network hasn't run, so no kernel uses the old memory yet.
    for path, parameter in places.items():
        parameter.set_data(ms.Tensor(values[path].astype(np.float32)))
    return deployed.set_train(False)


def _merged(network: nn.Cell) -> dict[str, np.ndarray]:
    """Return the arrays of a network by path, with a kernel and a bias for each set of branches."""
    values = {path: parameter.asnumpy() for path, parameter in network.parameters_and_names()}
    for path, cell in network.cells_and_names():
        if isinstance(cell, RepConv):
            kernel, bias = cell.fused()
            values[f"{path}.conv.weight"], values[f"{path}.conv.bias"] = kernel, bias
    return values
