"""From the form that a re-parameterised network is trained in to the one that is deployed."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.layers.rep_conv import RepConv

__all__ = ["deploy", "has_deploy_form"]


def has_deploy_form(network: nn.Cell) -> bool:
    """Whether :func:`deploy` applies: it has parallel branches and can be built without them."""
    return hasattr(network, "with_arguments") and any(
        isinstance(cell, RepConv) and not cell.deployed for _, cell in network.cells_and_names()
    )


def deploy(network: nn.Cell) -> nn.Cell:
    """Make the network that evaluates the same with one convolution for each set of branches.

    A new network, in evaluation mode; the given one stays as it is and may go on training.

    Args:
        network: ``ghostnetv3_*`` or ``repghostnet_*`` in train form.

    Returns:
        The network in deploy form, as ``create_model(name, deploy=True)`` builds it.

    Raises:
        ValueError: if the network has no deploy form, or is in it.

    Source: Ding et al., "RepVGG" (arXiv 2101.03697), section 3.3.
    """
    if not has_deploy_form(network):
        raise ValueError(
            f"{type(network).__name__} has no parallel branches to merge: ghostnetv3_* and "
            f"repghostnet_* in train form have"
        )
    values = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    for path, cell in network.cells_and_names():
        if isinstance(cell, RepConv):
            kernel, bias = cell.fused()
            values[f"{path}.conv.weight"], values[f"{path}.conv.bias"] = kernel, bias
    deployed = network.with_arguments(deploy=True)
    # Before its first run, so that no kernel has the old memory.
    for parameter in deployed.get_parameters():
        parameter.set_data(ms.Tensor(values[parameter.name].astype(np.float32)))
    return deployed.set_train(False)
