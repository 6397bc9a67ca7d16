"""Lower limits of a training step's time on a machine, by its operations and memory traffic.

Operations are the multiplications and additions of the convolutions and the classifier. Memory
traffic counts each input and output of a part of the step once, and nothing within a part.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindcv_ghost.native_build import Unavailable, compiler_commands
from tools.pages.profile import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    FINITE,
    FORWARD,
    HEAD,
    OPTIMIZER,
    SUMS,
    TAILS,
    TAILS_BACKWARD,
)

__all__ = ["MachineLimits", "limits_of_parts", "measure_machine"]

_FLOAT = 4


@dataclass(frozen=True)
class MachineLimits:
    """The peaks of all cores together: operations per second and bytes of memory per second."""

    operations: float
    bandwidth: float

    def seconds(self, operations: float, size: float) -> float:
        """Return the least time for operations and bytes that overlap.

        >>> MachineLimits(100.0, 10.0).seconds(200, 50)
        5.0
        """
        return max(operations / self.operations, size / self.bandwidth)


def measure_machine() -> MachineLimits:
    """Measure this machine's peaks by ``limits.cc``, or by numpy if there is no compiler."""
    from mindcv_ghost.kernels.library import FLAGS, threads_for

    threads = threads_for(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "limits.so"
        if not _compiled(Path(__file__).with_name("limits.cc"), path, FLAGS):
            return _measure_with_numpy()
        probe = ctypes.CDLL(str(path))
        probe.peak_operations.restype = ctypes.c_double
        reading, copying = ctypes.c_double(), ctypes.c_double()
        operations = probe.peak_operations(threads)
        probe.peak_bandwidth(threads, ctypes.byref(reading), ctypes.byref(copying))
    return MachineLimits(operations, max(reading.value, copying.value))


def _compiled(source: Path, path: Path, flags: Sequence[str]) -> bool:
    try:
        lines = compiler_commands((*flags, "-Wno-psabi"), [source], path)
    except Unavailable:
        return False
    return any(subprocess.run(line, capture_output=True).returncode == 0 for line in lines)


def _measure_with_numpy() -> MachineLimits:
    a = np.ones((2048, 2048), np.float32)
    x = np.ones(1 << 26, np.float32)
    y = np.zeros_like(x)
    operations = 2 * 2048**3 / min(_seconds(lambda: a @ a) for _ in range(5))
    bandwidth = 2 * x.nbytes / min(_seconds(lambda: np.copyto(y, x)) for _ in range(5))
    return MachineLimits(operations, bandwidth)


def _seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def limits_of_parts(network, batch: int, side: int) -> dict[str, tuple[float, float]]:
    """Return the operations and bytes of each part of a Ghost-ResNet's training step.

    Args:
        network: of the zoo, with stock operators.
        batch: number of images.
        side: of the images, in pixels.

    Returns:
        part -> (operations, bytes), for the parts of ``tools/pages/profile.py`` that have any.
    """
    from mindcv_ghost.analysis.complexity import count_macs
    from mindcv_ghost.layers import GhostModule
    from mindcv_ghost.models.ghost_resnet import GhostBasicBlock, GhostBottleneck
    from mindcv_ghost.models.ghost_resnet_cifar import GhostCifarBlock

    blocks = (GhostBasicBlock, GhostBottleneck, GhostCifarBlock)
    report = count_macs(network, (1, 3, side, side))
    layers = {layer.name: layer for layer in report.layers}
    parts: dict[str, list[float]] = {}

    def add(part: str, operations: float, numbers: float, weights: float = 0) -> None:
        total = parts.setdefault(part, [0.0, 0.0])
        total[0] += operations * batch
        total[1] += _FLOAT * (numbers * batch + weights)

    for layer in report.layers:
        if layer.kind != "Conv2d" or ".cheap." in layer.name:
            continue
        operations, taken = 2 * layer.macs, math.prod(layer.input_shape)
        for part in (FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT):
            if not (
                part == BACKWARD_INPUT and layer.input_shape[1] == 3
            ):  # the stem's input needs no gradient
                add(part, operations, taken + layer.activations, layer.parameters)
    last = [name for name in layers if name.endswith(".primary.conv")][-1].split(".")[-3]
    for name, cell in network.cells_and_names():
        if isinstance(cell, GhostModule):
            depthwise = layers.get(f"{name}.cheap.conv")
            u = layers[f"{name}.primary.conv"]
            y = u.activations * cell.out_channels // u.output_shape[1]
            shortcut = y if name.endswith(f".{last}") else 0
            macs = 2 * depthwise.macs if depthwise else 0
            add(TAILS, macs, u.activations + y + shortcut)
            # Inputs: u, dy and, with a shortcut, y. Outputs: du and, with one, its gradient.
            add(TAILS_BACKWARD, 2 * macs, 2 * u.activations + y + 2 * shortcut)
        elif isinstance(cell, blocks):
            taken = math.prod(layers[f"{name}.conv1.primary.conv"].input_shape)
            add(SUMS, 0, 3 * taken)
    if "conv1" in layers:  # else the stem is a Ghost module
        stem = layers["conv1"].activations
        add(TAILS, 0, stem + stem // 4)
        add(TAILS_BACKWARD, 0, 2 * stem + stem // 4)
    dense = report.layers[-1]
    convolutions = [layer for layer in report.layers if layer.kind == "Conv2d"]
    features = math.prod(convolutions[-1].output_shape[2:]) * dense.input_shape[1]
    add(HEAD, 6 * dense.macs, 2 * (features + dense.activations), 3 * dense.parameters)
    # Momentum reads the gradient, and reads and writes the weight and its moment.
    add(OPTIMIZER, 0, 0, 5 * report.parameters)
    add(FINITE, 0, 0, report.parameters)
    return {part: (operations, size) for part, (operations, size) in parts.items()}
