"""What any MindSpore network costs: parameters, multiply-adds, activations and memory.

Parameters are what training changes; BN's moving statistics are kept apart (MindCV's tables add
them in). One MAC, a multiplication and an addition, is one FLOP of the paper; convolutions and
linear layers count, while BN, activations, pooling, sums and products of activations (attention)
don't: so the Ghost papers count. Activations are the numbers that convolutions and linear layers
put out, as in timm's and fvcore's counts. Memory is that of inference: the largest sum of tensors
between cells that are alive at once (:mod:`mindcv_ghost.analysis.memory`), and all weights.

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

from mindcv_ghost.analysis.memory import LiveTensors
from mindcv_ghost.analysis.observation import leaves, observed
from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.registry import add_model_arguments, create_model_by_name, parse_model_args

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
    """One layer: path, kind, shapes of input and output, parameters, MACs, numbers put out.

    ``live_bytes`` are those of all tensors that are alive when it puts out its own.
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
    """A network's cost for one input of ``input_shape``; ``layers`` in the order of execution.

    ``peak_bytes`` are those of all weights and of the most tensors that are alive at once.
    """

    input_shape: tuple[int, ...]
    parameters: int
    moving_statistics: int
    macs: int
    activations: int
    peak_bytes: int
    layers: tuple[LayerCost, ...]


def count_parameters(network: nn.Cell) -> int:
    """Numbers that training changes: weights, biases, BN's scales and offsets."""
    return sum(parameter.size for parameter in network.trainable_params())


def count_moving_statistics(network: nn.Cell) -> int:
    """Numbers that a checkpoint holds beside the parameters: BN's moving means and variances."""
    return sum(
        parameter.size
        for parameter in network.get_parameters()
        if parameter.name.endswith(("moving_mean", "moving_variance"))
    )


def count_macs(network: nn.Cell, input_shape: Sequence[int]) -> ComplexityReport:
    """Run ``network`` once and count the multiply-adds of every convolution and linear layer.

    Neither weights, moving statistics, mode nor training flags change. A layer that runs several
    times is counted as often, under the name it has first.

    Args:
        network: takes one tensor.
        input_shape: of that tensor, with the batch: (1, 3, 224, 224).

    Returns:
        The report; MACs are of the whole batch given.
    """
    costs: list[LayerCost] = []
    live = LiveTensors()

    def record(name: str, cell: nn.Cell, inputs: tuple[Any, ...], output: Any) -> None:
        live.see(inputs, output)
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

    with observed(network, leaves(network), record):
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
    """Multiply-adds of one call of one layer.

    A convolution's weight holds, for each map on its one side, what one map takes on the other:
    every output position uses it whole. Transposed, every input position does.
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
    """Columns under their names, numbers to the right; empty columns are left out."""
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
    network = create_model_by_name(
        name,
        parse_model_args(args.model_args),
        num_classes=args.num_classes,
        in_channels=args.in_channels,
    )
    return count_macs(network, (1, args.in_channels, args.image_size, args.image_size))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindcv_ghost.analysis.complexity",
        description="Parameters, multiply-adds and activations (of convolutions and linear layers) "
        "of models, and the peak memory of inference for one image (float32; a total has all "
        "weights in it, a layer's row the tensors alone).",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="name of a MindCV model")
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side (224)")
    add_model_arguments(parser, num_classes=1000)
    parser.add_argument("--layers", action="store_true", help="a row a layer, too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, CSV or JSON of the models on the command line; return the exit status."""
    args = _parser().parse_args(argv)
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
