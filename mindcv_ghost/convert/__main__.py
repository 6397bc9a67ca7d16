"""The command: ``python -m mindcv_ghost.convert SOURCE OUT --model NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindcv_ghost.convert.conversion import ConversionReport, to_mindspore, to_torch
from mindcv_ghost.convert.names import DIALECTS, dialects_of, torch_names
from mindcv_ghost.convert.torch_file import SUFFIXES, read_torch_file, write_torch_file
from mindcv_ghost.errors import CheckpointError, ConfigError, tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.registry import (
    add_model_arguments,
    check_model_exists,
    create_model_by_name,
    parse_model_args,
)

if TYPE_CHECKING:
    from mindspore import nn

_LARGEST_CKPT = 16 * 2**30  # bytes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description="Convert weights of Ghost networks from PyTorch to MindSpore (OUT ends in "
        ".ckpt) or back (SOURCE ends in .ckpt). Every tensor is accounted for, or nothing is "
        "written.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help=f".ckpt, {', '.join(SUFFIXES)}")
    parser.add_argument("out", type=Path, metavar="OUT", help="file of the other framework")
    parser.add_argument("--model", required=True, metavar="NAME", help="as in mindcv.list_models()")
    add_model_arguments(parser, num_classes=None)
    parser.add_argument(
        "--names", choices=DIALECTS, default="timm", help="whose parameter names to write (timm)"
    )
    parser.add_argument("--ema", action="store_true", help="the averaged weights of a .ckpt")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file and print what became of its tensors; return the exit status."""
    args = _parser().parse_args(argv)
    kinds = [_kind(path) for path in (args.source, args.out)]
    if kinds[0] == kinds[1]:
        raise ConfigError(
            f"{args.source} and {args.out} are both {kinds[0]} files by their suffixes; one must "
            f"end in .ckpt, the other in {' or '.join(SUFFIXES)}"
        )
    if args.out.exists() and not args.force:
        raise ConfigError(f"{args.out} exists already; --force replaces it")
    if args.ema and kinds[0] == "PyTorch":
        raise ConfigError("--ema is only for .ckpt files; leave it out for PyTorch files")
    dialects_of(args.model)
    report = _to_ckpt(args) if kinds[0] == "PyTorch" else _from_ckpt(args)
    print(json.dumps(dataclasses.asdict(report)) if args.json else _text(report, kinds[0], args))
    return 0


def _kind(path: Path) -> str:
    if path.suffix == ".ckpt":
        return "MindSpore"
    if path.suffix in SUFFIXES:
        return "PyTorch"
    raise ConfigError(f"{path}: the suffix must be .ckpt (MindSpore) or {' or '.join(SUFFIXES)}")


def _to_ckpt(args: argparse.Namespace) -> ConversionReport:
    from mindspore import Parameter, Tensor

    from mindcv_ghost.storage.checkpoint import save_weights

    tensors = read_torch_file(args.source)
    classifier = torch_names(args.model, [_classifier(args.model)])[_classifier(args.model)]
    network = _network(args, tensors.get(classifier))
    arrays, report = to_mindspore(tensors, network, args.model)
    parameters = [Parameter(Tensor(array), name=name) for name, array in arrays.items()]
    try:
        save_weights(parameters, args.out)
    except OSError as problem:
        raise CheckpointError(f"{args.out} can't be written: {problem}") from problem
    return report


def _from_ckpt(args: argparse.Namespace) -> ConversionReport:
    from mindcv_ghost.storage.checkpoint import is_optimizer_state, split_averages
    from mindcv_ghost.storage.ckpt_format import read_ckpt

    if not args.source.is_file():
        raise CheckpointError(f"there is no file {args.source}")
    stored = read_ckpt(args.source, _LARGEST_CKPT)
    plain, averaged = split_averages(stored)
    if args.ema and not averaged:
        raise CheckpointError(f"{args.source} has no averaged weights; leave out --ema")
    unaveraged = {name: array for name, array in plain.items() if not is_optimizer_state(name)}
    weights = averaged if args.ema else unaveraged
    network = _network(args, weights.get(_classifier(args.model)))
    tensors, report = to_torch(weights, network, args.model, args.names)
    write_torch_file(args.out, tensors)
    return report


def _classifier(model: str) -> str:
    from mindcv.models import registry

    check_model_exists(model)
    return f"{registry.get_pretrained_cfg(model)['classifier']}.weight"


def _network(args: argparse.Namespace, classifier: np.ndarray | None) -> nn.Cell:
    """Create the network with ``--num_classes`` classes, by default as many as the file has."""
    classes = args.num_classes
    if classes is None:
        classes = 1000 if classifier is None or not classifier.ndim else classifier.shape[0]
    return create_model_by_name(
        args.model,
        parse_model_args(args.model_args),
        num_classes=int(classes),
        in_channels=args.in_channels,
    )


def _text(report: ConversionReport, source: str, args: argparse.Namespace) -> str:
    counters = "dropped: MindSpore has none" if source == "PyTorch" else "written as 0"
    lines = [
        f"{args.source} -> {args.out} ({report.model}, names: {report.dialect})",
        f"  {report.matched} tensors of {report.numbers:,} numbers carried over, "
        f"{report.statistics} of them BN statistics",
        f"  {report.counters} counters (num_batches_tracked) {counters}",
    ]
    if report.cast:
        lines.append(f"  {report.cast} tensors made float32")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
