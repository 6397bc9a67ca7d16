"""Random parameters: default values such as BN's zeros and ones would hide mistakes."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn


def randomise(network: nn.Cell, seed: int = 0) -> dict[str, np.ndarray]:
    """Set all parameters and running statistics to random values; return these, in float64."""
    random = np.random.RandomState(seed)
    drawn = {}
    for name, parameter in network.parameters_dict().items():
        if name.endswith("order"):
            continue  # places of maps, which are no numbers to compute with
        noise = random.standard_normal(parameter.shape)
        if name.endswith("weight"):
            value = noise * np.sqrt(2.0 / np.prod(parameter.shape[1:]))
        elif name.endswith(("gamma", "moving_variance")):
            value = 1.0 + 0.3 * np.tanh(noise)
        else:
            value = 0.3 * noise
        parameter.set_data(Tensor(value.astype(np.float32)))
        drawn[name] = value.astype(np.float32).astype(np.float64)
    return drawn
