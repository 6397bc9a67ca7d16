"""A network's parameters from outside the graph that trains them: assigned, and compared."""

from __future__ import annotations

import hashlib

import mindspore as ms
import numpy as np
from mindspore import nn, ops

__all__ = ["assign_parameter", "checksum"]


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


def checksum(network: nn.Cell) -> str:
    """Return the SHA-256 of a network's parameters: their names, shapes, types and bytes, in order.

    The states of a run with a teacher hold the teacher's: it must stay the same from version to
    version, or these runs can't be resumed.
    """
    digest = hashlib.sha256()
    for p in network.get_parameters():
        digest.update(f"{p.name} {p.shape} {p.dtype}\0".encode())
        digest.update(np.ascontiguousarray(p.asnumpy()).tobytes())
    return digest.hexdigest()
