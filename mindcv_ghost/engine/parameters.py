"""Writing a parameter from outside the graph that trains it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ops

__all__ = ["write"]


def write(parameter: ms.Parameter, values: np.ndarray) -> None:
    """Give a parameter new values, in the memory that it has.

    Not ``Parameter.set_data``: after it, some kernels that have run before go on with the old
    memory (MindSpore 2.8, CPU). With an optimizer in a graph of its own, as under gradient
    accumulation, or in PyNative mode, a network whose weights were set and set back for a
    validation by averaged weights learnt nothing any more: the optimizer moved weights that nobody
    read. ``tests/engine/test_trainer.py`` shows it.

    Args:
        parameter: to be changed.
        values: of its shape.
    """
    ops.assign(parameter, ms.Tensor(values, parameter.dtype))
    if ms.get_context("device_target") != "CPU":
        # The assignment is an operator of its own; that it goes by the stream of the graphs that
        # read the parameter, or before these, could not be found in MindSpore's sources.
        ms.runtime.synchronize()
