"""The command: ``python -m mindcv_ghost.analysis.redundancy MODEL --ckpt_path FILE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mindcv_ghost.analysis.hooks import tells_unfit_images
from mindcv_ghost.analysis.pictures import (
    add_picture_arguments,
    check_picture_arguments,
    read_images,
)
from mindcv_ghost.analysis.redundancy.measure import (
    default_layer,
    errors_csv,
    feature_maps,
    measure_redundancy,
)
from mindcv_ghost.errors import ConfigError, tells_user_errors
from mindcv_ghost.program import program
from mindcv_ghost.registry import add_model_arguments, create_model_by_options
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.checkpoint import load_weights

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("redundancy"),
        description="Measure how well the feature maps of a layer are predicted from each other by "
        "d x d kernels; write a picture of the most similar pairs and a table of errors.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a MindCV model")
    parser.add_argument("--ckpt_path", help="trained weights (default: random ones)")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="pictures")
    add_picture_arguments(parser)
    parser.add_argument("--layer", help="path of a cell (end of the first residual stage)")
    parser.add_argument("--out", type=Path, default=Path("redundancy"), help="folder (redundancy)")
    add_model_arguments(parser, num_classes=1000)
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write table and picture, print the table; return the exit status."""
    args = _parser().parse_args(argv)
    check_picture_arguments(args)
    images = read_images(args.image, args.image_size, args.in_channels, args.mean, args.std)
    network = create_model_by_options(args.model, args)
    if args.ckpt_path:
        print(f"{args.ckpt_path}: {load_weights(network, args.ckpt_path, model=args.model)}")
    else:
        print(
            "warning: no --ckpt_path, so the weights are RANDOM: the results say nothing about a "
            "trained network",
            file=sys.stderr,
        )
    layer = args.layer or default_layer(network)
    with tells_unfit_images(args.model, args.image_size):
        maps = feature_maps(network, images, layer)
    result = measure_redundancy(maps)
    table = errors_csv(result)
    print(f"{args.model}, {layer}: {len(result.live)} of {result.channels} maps are live")
    print(table, end="")

    from mindcv_ghost.analysis.redundancy.picture import draw_redundancy

    weights = "" if args.ckpt_path else " (RANDOM WEIGHTS)"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "errors.csv", table)
        draw_redundancy(maps, result, f"{args.model}, {layer}{weights}", args.out / "maps.png")
    except OSError as problem:
        raise ConfigError(f"--out {args.out} can't be written: {problem}") from None
    print(f"written: {args.out / 'errors.csv'}, {args.out / 'maps.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
