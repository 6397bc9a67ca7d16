"""The command: ``python -m mindcv_ghost.convert SOURCE OUT --model NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_ghost.convert.conversion import ConversionReport, to_mindspore, to_torch
from mindcv_ghost.convert.names import DIALECTS, dialects_of, torch_names
from mindcv_ghost.convert.torch_file import PICKLED, SUFFIXES, read_pickled, write_torch_file
from mindcv_ghost.errors import CheckpointError, ConfigError, tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.registry import (
    add_model_arguments,
    check_model_exists,
    create_model_by_options,
)
from mindcv_ghost.storage.weights_file import WeightsFile, is_pickled, read_weights_file

if TYPE_CHECKING:
    from mindspore import nn

_LARGEST_FILE = 16 * 2**30  # bytes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description="Convert weights of Ghost networks from PyTorch to MindSpore (OUT ends in "
        ".ckpt) or back (SOURCE is MindSpore's). Every tensor is accounted for, or nothing is "
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
    # os.path, because Path.exists raises for a name that is too long; writing says so.
    if os.path.exists(args.out) and not args.force:
        raise ConfigError(f"{args.out} exists already; --force replaces it")
    out_is_mindspores = args.out.suffix == ".ckpt"
    if not out_is_mindspores and args.out.suffix not in SUFFIXES:
        raise ConfigError(
            f"{args.out}: the suffix must be .ckpt (MindSpore) or {' or '.join(SUFFIXES)}"
        )
    dialects_of(args.model)
    file = _read(args.source, args.model)
    source_is_mindspores = _is_mindspores(file)
    if source_is_mindspores == out_is_mindspores:
        kind = "MindSpore" if source_is_mindspores else "PyTorch"
        raise ConfigError(
            f"{args.source} and {args.out} are both {kind} files: {args.source} by its content, "
            f"{args.out} by its suffix. One must be MindSpore's (.ckpt), the other PyTorch's "
            f"({' or '.join(SUFFIXES)})."
        )
    if args.ema and not source_is_mindspores:
        raise ConfigError("--ema is only for MindSpore's files; leave it out for PyTorch's")
    report = _from_mindspore(args, file) if source_is_mindspores else _to_mindspore(args, file)
    print(json.dumps(dataclasses.asdict(report)) if args.json else _text(report, args))
    return 0


def _read(path: Path, model: str) -> WeightsFile:
    if path.suffix in PICKLED or is_pickled(path):
        # Lightning's files end in .ckpt; what is in them is PyTorch's.
        return WeightsFile(path.with_suffix(".pth"), read_pickled(path), {})
    return read_weights_file(path, _LARGEST_FILE, model)


def _is_mindspores(file: WeightsFile) -> bool:
    """Whether a file has MindSpore's names; Ghost networks have BN."""
    if any(name.endswith(".running_mean") for name in file.arrays):
        return False  # whatever its suffix
    if file.path.suffix == ".ckpt" or file.metadata.get("format") == "ms":
        return True
    return any(name.endswith(".moving_mean") for name in file.arrays)


def _to_mindspore(args: argparse.Namespace, file: WeightsFile) -> ConversionReport:
    from mindspore import Parameter, Tensor

    from mindcv_ghost.storage.checkpoint import save_weights

    classifier = torch_names(args.model, [_classifier(args.model)])[_classifier(args.model)]
    network = _network(args, file, classifier)
    arrays, report = to_mindspore(file.arrays, network, args.model)
    parameters = [Parameter(Tensor(array), name=name) for name, array in arrays.items()]
    try:
        save_weights(parameters, args.out)
    except OSError as problem:
        raise CheckpointError(f"{args.out} can't be written: {problem}") from problem
    return report


def _from_mindspore(args: argparse.Namespace, file: WeightsFile) -> ConversionReport:
    from mindcv_ghost.storage.checkpoint import network_weights

    network = _network(args, file, _classifier(args.model))
    found = network_weights(file, network, args.ema)
    tensors, report = to_torch(found.arrays, network, args.model, args.names)
    write_torch_file(args.out, tensors)
    return dataclasses.replace(report, prefixes=found.prefixes, ignored=found.ignored)


def _classifier(model: str) -> str:
    from mindcv.models import registry

    check_model_exists(model)
    return f"{registry.get_pretrained_cfg(model)['classifier']}.weight"


def _network(args: argparse.Namespace, file: WeightsFile, classifier: str) -> nn.Cell:
    """Create the network with ``--num_classes`` classes, by default as many as the file has."""
    classes = args.num_classes
    if classes is None:
        classes = _count_classes(file, classifier) or 1000
    return create_model_by_options(args.model, args, num_classes=classes)


def _count_classes(file: WeightsFile, classifier: str) -> int:
    """Return the number of rows of a file's classifier; 0 if it has none.

    A Ghost classifier has two weights. If its ratio doesn't divide the classes, there are more rows
    than classes, the file doesn't fit, and ``--num_classes`` has to be given.
    """
    path = classifier[: -len(".weight")]
    rows = {
        part: int(array.shape[0])
        for name, array in file.arrays.items()
        for part in ("", ".primary", ".cheap")
        if f".{name}".endswith(f".{path}{part}.weight") and array.ndim
    }
    return rows.get("") or sum(rows.values())


def _text(report: ConversionReport, args: argparse.Namespace) -> str:
    counters = "dropped: MindSpore has none" if args.out.suffix == ".ckpt" else "written as 0"
    lines = [
        f"{args.source} -> {args.out} ({report.model}, names: {report.dialect})",
        f"  {report.matched} tensors of {report.numbers:,} numbers carried over, "
        f"{report.statistics} of them BN statistics",
        f"  {report.counters} counters (num_batches_tracked) {counters}",
    ]
    if report.prefixes:
        lines.append(f"  {' and '.join(map(repr, report.prefixes))} taken off the names")
    if report.ignored:
        lines.append(f"  {report.ignored} arrays left out: an optimizer's state, or averages")
    if report.cast:
        lines.append(f"  {report.cast} tensors made float32")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
