"""Convert a re-parameterised network from its training form to its deploy form."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.layers.rep_conv import RepConv

__all__ = ["deploy", "has_deploy_form"]


def has_deploy_form(network: nn.Cell) -> bool:
    """Tell whether :func:`deploy` applies: the network has parallel branches that can be merged."""
    return hasattr(network, "with_arguments") and any(
        isinstance(cell, RepConv) and not cell.deployed for _, cell in network.cells_and_names()
    )


def deploy(network: nn.Cell) -> nn.Cell:
    """Merge each set of parallel branches into one convolution, with the same results.

    The given network stays unchanged and can go on training.

    Args:
        network: ``ghostnetv3_*`` or ``repghostnet_*`` in training form.

    Returns:
        A new network in evaluation mode, as ``create_model(name, deploy=True)`` builds it.

    Raises:
        ValueError: if the network has no deploy form, or is already in it.

    Source: Ding et al., "RepVGG" (arXiv 2101.03697), section 3.3.
    """
    if not has_deploy_form(network):
        raise ValueError(
            f"{type(network).__name__} has no parallel branches to merge; give a ghostnetv3_* or "
            f"repghostnet_* in training form"
        )
    values = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    for path, cell in network.cells_and_names():
        if isinstance(cell, RepConv):
            kernel, bias = cell.fused()
            values[f"{path}.conv.weight"], values[f"{path}.conv.bias"] = kernel, bias
    deployed = network.with_arguments(deploy=True)
    # set_data is safe here: the network hasn't run, so no kernel uses the old memory yet.
    for parameter in deployed.get_parameters():
        parameter.set_data(ms.Tensor(values[parameter.name].astype(np.float32)))
    return deployed.set_train(False)
