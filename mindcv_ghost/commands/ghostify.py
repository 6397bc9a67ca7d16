"""``mindcv-ghost ghostify MODEL``: put Ghost modules into a model; report, and save its weights."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_ghost.errors import CheckpointError, ConfigError, tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.registry import add_model_arguments, create_model_by_options

if TYPE_CHECKING:
    from mindspore import nn

    from mindcv_ghost.surgery import GhostifyReport

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    from mindcv_ghost.analysis.pictures import add_picture_arguments

    parser = argparse.ArgumentParser(
        prog=program("ghostify"),
        description="Replace the convolutions of a model by Ghost modules. Prints what became of "
        "each convolution, and parameters and multiply-adds before and after; --output saves the "
        "new network's weights.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a MindCV model")
    parser.add_argument("--ratio", type=int, default=2, help="s in the paper (2)")
    parser.add_argument("--cheap_kernel_size", type=int, default=3, help="d in the paper (3)")
    parser.add_argument(
        "--where",
        nargs="+",
        metavar="PATTERN",
        help="convolutions to replace, such as 'layer4.*' (all but the first)",
    )
    parser.add_argument(
        "--init",
        choices=("random", "fit"),
        default="random",
        help="fit: start close to the trained network of --ckpt_path",
    )
    parser.add_argument(
        "--image", nargs="+", metavar="FILE", help="for --init fit: some hundred training pictures"
    )
    add_picture_arguments(parser)
    add_model_arguments(parser, num_classes=1000)
    parser.add_argument("--ckpt_path", metavar="FILE", help="weights of the model")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a .ckpt to write")
    parser.add_argument("--force", action="store_true", help="replace --output if it exists")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Change a model, print the report, and save the weights; return the exit status."""
    args = _parser().parse_args(argv)
    _check(args)
    network = create_model_by_options(args.model, args)
    network, report = _ghostify(network, args)
    print(json.dumps(report.as_dict()) if args.json else report)
    if args.output:
        _save(network, args.output)
        if not args.json:
            print(f"written: {args.output}; it loads with {_options(args)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what can't work, before anything slow happens."""
    from mindcv_ghost.analysis.pictures import check_picture_arguments
    from mindcv_ghost.config.keys import CHEAP_KERNEL_SIZES

    if args.cheap_kernel_size not in CHEAP_KERNEL_SIZES:
        raise ConfigError(
            f"--cheap_kernel_size is {args.cheap_kernel_size}; give one of "
            f"{', '.join(map(str, CHEAP_KERNEL_SIZES))}"
        )
    if args.init == "fit" and not (args.ckpt_path and args.image):
        raise ConfigError(
            "--init fit needs a trained network and pictures: give --ckpt_path FILE and "
            "--image FILE ..., some hundred pictures of the training set"
        )
    for name in ("image", "mean", "std"):
        if getattr(args, name) and args.init != "fit":
            raise ConfigError(f"--{name} is only for --init fit; leave it out")
    check_picture_arguments(args)
    if args.output is None:
        return
    if args.output.suffix != ".ckpt":
        raise ConfigError(f"--output {args.output}: the suffix must be .ckpt")
    try:
        has_folder, exists = args.output.parent.is_dir(), args.output.exists()
    except OSError as problem:  # a long name, or a closed folder
        reason = problem.strerror or problem
        raise ConfigError(f"--output {args.output} can't be written: {reason}") from None
    if not has_folder:
        raise ConfigError(f"--output {args.output}: there is no folder {args.output.parent}")
    if exists and not args.force:
        raise ConfigError(f"--output {args.output} exists already; --force replaces it")


def _ghostify(network: nn.Cell, args: argparse.Namespace) -> tuple[nn.Cell, GhostifyReport]:
    from mindcv_ghost.analysis.pictures import read_images
    from mindcv_ghost.storage.checkpoint import load_weights
    from mindcv_ghost.surgery import ghostify

    if args.ckpt_path:
        load_weights(network, args.ckpt_path, model=args.model)
    images = None
    if args.init == "fit":
        images = read_images(args.image, args.image_size, args.in_channels, args.mean, args.std)
    try:
        return ghostify(
            network,
            ratio=args.ratio,
            cheap_kernel_size=args.cheap_kernel_size,
            where=args.where,
            init=args.init,
            calibration=images,
            image_size=args.image_size,
        )
    except ValueError as problem:
        raise ConfigError(f"{args.model}: {problem}") from problem


def _save(network: nn.Cell, path: Path) -> None:
    from mindcv_ghost.storage.checkpoint import save_weights

    try:
        save_weights(list(network.get_parameters()), path)
    except OSError as problem:
        raise CheckpointError(f"{path} can't be written: {problem}") from problem


def _options(args: argparse.Namespace) -> str:
    """Return the keys with which train and validate build this network and load its weights."""
    words = [f"ratio={args.ratio}", f"cheap_kernel_size={args.cheap_kernel_size}"]
    if args.where:
        words.append(f"where=[{', '.join(args.where)}]")
    if args.init == "fit":
        words.append("init=fit")
    if args.image_size != 224:
        words.append(f"image_size={args.image_size}")
    model = ["--model", args.model, "--num_classes", str(args.num_classes)]
    if args.in_channels != 3:
        model += ["--in_channels", str(args.in_channels)]
    if args.model_args:
        model += ["--model_args", *args.model_args]
    words = [*model, "--ghostify", *words, "--ckpt_path", str(args.output)]
    return shlex.join(words)
