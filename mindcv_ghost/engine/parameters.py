"""Assign a parameter from outside the graph that trains it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ops

__all__ = ["assign_parameter"]


def assign_parameter(parameter: ms.Parameter, values: np.ndarray) -> None:
    """Overwrite a parameter's values in place, in the memory that it already has.

    ``Parameter.set_data`` won't do: after it, some kernels that have already run keep using the old
    memory (MindSpore 2.8, CPU). This concerns an optimizer in a graph of its own, as under gradient
    accumulation, and PyNative mode. A network whose weights were replaced for a validation with
    averaged weights, and then restored, stopped learning: the optimizer updated weights that nobody
    read. ``tests/engine/test_trainer.py`` shows it.

    Args:
        parameter: to be changed.
        values: of the parameter's shape.
    """
    ops.assign(parameter, ms.Tensor(values, parameter.dtype))
    if ms.get_context("device_target") != "CPU":
        # The assignment is an operator of its own. MindSpore's sources don't tell whether it runs
        # in the stream of the graphs that read the parameter, or before them.
        ms.runtime.synchronize()
