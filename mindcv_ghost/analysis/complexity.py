"""Count what a MindSpore network costs: parameters, multiply-adds, activations and memory.

Parameters are the numbers that training changes. BN's running statistics are counted separately
(MindCV's tables include them). One MAC, a multiplication and an addition, is one FLOP of the paper.
As in the Ghost papers, convolutions and linear layers count; BN, activation functions, pooling, and
sums and products of maps (attention) don't. Activations are the numbers in the outputs of
convolutions and linear layers, as timm and fvcore count them. Memory is that of inference: all
weights, and the largest total of tensors between cells that are alive at the same time
(:mod:`mindcv_ghost.analysis.live_tensors`).

    python -m mindcv_ghost.analysis.complexity ghost_resnet50 resnet50 --image_size 224
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.analysis.hooks import evaluate_with_hooks, leaf_cells, tells_unfit_images
from mindcv_ghost.analysis.live_tensors import LiveTensors
from mindcv_ghost.errors import ConfigError, tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.registry import add_model_arguments, create_model_by_options

__all__ = [
    "ComplexityReport",
    "LayerCost",
    "count_macs",
    "count_moving_statistics",
    "count_parameters",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.Conv1dTranspose, nn.Conv2dTranspose, nn.Conv3dTranspose)
_COUNTED = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Dense)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The cost of one layer.

    Attributes:
        name: path of the cell.
        kind: name of its class.
        input_shape: with the batch.
        output_shape: with the batch.
        parameters: that training changes.
        macs: multiply-adds of the whole batch.
        activations: numbers in the output.
        live_bytes: of all tensors that are alive once the output exists.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    activations: int
    live_bytes: int


@dataclasses.dataclass(frozen=True)
class ComplexityReport:
    """The cost of a network for one input.

    Attributes:
        input_shape: of that input, with the batch.
        parameters: that training changes.
        moving_statistics: BN's running means and variances.
        macs: multiply-adds of the whole batch.
        activations: numbers in the outputs of convolutions and linear layers.
        peak_bytes: of all weights, and of the tensors alive at the same time at the worst moment.
        layers: convolutions and linear layers in the order of execution.
    """

    input_shape: tuple[int, ...]
    parameters: int
    moving_statistics: int
    macs: int
    activations: int
    peak_bytes: int
    layers: tuple[LayerCost, ...]


def count_parameters(network: nn.Cell) -> int:
    """Count the numbers that training changes: weights, biases, BN's scales and offsets."""
    return sum(parameter.size for parameter in network.trainable_params())


def count_moving_statistics(network: nn.Cell) -> int:
    """Count BN's running means and variances, which a checkpoint holds beside the parameters."""
    return sum(
        parameter.size
        for parameter in network.get_parameters()
        if parameter.name.endswith(("moving_mean", "moving_variance"))
    )


def count_macs(network: nn.Cell, input_shape: Sequence[int]) -> ComplexityReport:
    """Run ``network`` once and count the multiply-adds of every convolution and linear layer.

    Weights, running statistics, mode and training flags stay the same. A layer that runs several
    times is counted each time, under its first path.

    Args:
        network: takes one tensor.
        input_shape: of that tensor, with the batch, for example (1, 3, 224, 224).

    Returns:
        The report; its MACs are those of the whole batch.
    """
    costs: list[LayerCost] = []
    live = LiveTensors()

    def record(name: str, cell: nn.Cell, inputs: tuple[Any, ...], output: Any) -> None:
        live.track(inputs, output)
        if not isinstance(cell, _COUNTED):
            return
        costs.append(
            LayerCost(
                name=name,
                kind=type(cell).__name__,
                input_shape=tuple(inputs[0].shape),
                output_shape=tuple(output.shape),
                parameters=sum(p.size for p in cell.trainable_params()),
                macs=_macs(cell, tuple(inputs[0].shape), tuple(output.shape)),
                activations=output.size,
                live_bytes=live.bytes,
            )
        )

    with evaluate_with_hooks(network, leaf_cells(network, _COUNTED), record):
        network(Tensor(np.zeros(tuple(input_shape), np.float32)))
    return ComplexityReport(
        input_shape=tuple(input_shape),
        parameters=count_parameters(network),
        moving_statistics=count_moving_statistics(network),
        macs=sum(cost.macs for cost in costs),
        activations=sum(cost.activations for cost in costs),
        peak_bytes=live.peak_bytes + sum(p.size * p.itemsize for p in network.get_parameters()),
        layers=tuple(costs),
    )


def _macs(cell: nn.Cell, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Count the multiply-adds of one call of one layer.

    A convolution uses each number of its weight once for every output position (a transposed
    convolution: for every input position).
    """
    if isinstance(cell, nn.Dense):
        return math.prod(input_shape[:-1]) * cell.in_channels * cell.out_channels
    positions = input_shape if isinstance(cell, _TRANSPOSED) else output_shape
    return positions[0] * math.prod(positions[2:]) * math.prod(cell.weight.shape)


def _report_rows(name: str, report: ComplexityReport, layers: bool) -> list[dict[str, Any]]:
    total = {
        "model": name,
        "layer": "",
        "kind": "",
        "input": "x".join(map(str, report.input_shape[1:])),
        "output": "",
        "parameters": report.parameters,
        "moving_statistics": report.moving_statistics,
        "macs": report.macs,
        "activations": report.activations,
        "peak_bytes": report.peak_bytes,
    }
    if not layers:
        return [total]
    rows = [
        {
            "model": name,
            "layer": cost.name,
            "kind": cost.kind,
            "input": "x".join(map(str, cost.input_shape[1:])),
            "output": "x".join(map(str, cost.output_shape[1:])),
            "parameters": cost.parameters,
            "moving_statistics": "",
            "macs": cost.macs,
            "activations": cost.activations,
            "peak_bytes": cost.live_bytes,
        }
        for cost in report.layers
    ]
    return [*rows, total]


def _table(rows: list[dict[str, Any]]) -> str:
    """Format rows as a table without empty columns; numbers are right-aligned."""
    columns = [name for name in rows[0] if any(row[name] != "" for row in rows)]
    cells = [[_text(row[name]) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells)]
    right = [isinstance(rows[-1][name], int) for name in columns]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right)
        ).rstrip()
        for line in [columns, *cells]
    )


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _measure(name: str, args: argparse.Namespace) -> ComplexityReport:
    network = create_model_by_options(name, args)
    with tells_unfit_images(name, args.image_size):
        return count_macs(network, (1, args.in_channels, args.image_size, args.image_size))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("complexity"),
        description="Count the parameters, multiply-adds and activations (of convolutions and "
        "linear layers) of models, and the peak memory of inference for one image (float32; a "
        "model's row includes all weights, a layer's row only the tensors).",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="name of a MindCV model")
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side (224)")
    add_model_arguments(parser, num_classes=1000)
    parser.add_argument("--layers", action="store_true", help="print a row for each layer, too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, CSV or JSON of the models on the command line; return the exit status."""
    args = _parser().parse_args(argv)
    if args.image_size < 1:
        raise ConfigError(f"--image_size is {args.image_size}; it must be at least 1")
    rows: list[dict[str, Any]] = []
    for name in args.models:
        rows += _report_rows(name, _measure(name, args), args.layers)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
