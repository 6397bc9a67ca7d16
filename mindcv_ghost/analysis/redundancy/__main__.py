"""The command: ``python -m mindcv_ghost.analysis.redundancy MODEL --ckpt_path FILE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindcv_ghost.analysis.redundancy.measure import (
    default_layer,
    errors_csv,
    feature_maps,
    measure_redundancy,
)
from mindcv_ghost.errors import ConfigError, DataError, tells_user_errors
from mindcv_ghost.registry import add_model_arguments, create_model_by_name, parse_model_args
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.checkpoint import load_weights

__all__ = ["main", "read_images"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_images(files: Sequence[str], size: int, channels: int) -> np.ndarray:
    """Read pictures, resize their shorter side, crop the centre and normalise.

    Args:
        files: pictures; if there are none, the two photographs that scikit-learn includes.
        size: side of the crop in pixels.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        An array of shape (N, channels, size, size), normalised with ImageNet's mean and deviation.

    Raises:
        DataError: if a file is missing or isn't a picture, or scikit-learn isn't installed.
        ConfigError: if ``channels`` is neither 1 nor 3.
    """
    from PIL import Image

    if channels not in (1, 3):
        raise ConfigError(f"--in_channels is {channels}; pictures have 1 or 3 channels")
    pictures = []
    for file in files or _sample_files():
        try:
            with Image.open(file) as opened:
                picture = opened.convert("RGB" if channels == 3 else "L")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise DataError(f"--image {file} can't be read as a picture: {problem}") from None
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), Image.BICUBIC)
        pictures.append(np.asarray(picture.crop((left, top, left + size, top + size))))
    images = np.stack(pictures).astype(np.float32).reshape(-1, size, size, channels) / 255
    mean, std = np.array(_MEAN, np.float32), np.array(_STD, np.float32)
    if channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2))


def _sample_files() -> list[str]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise DataError(
            "without --image, the pictures come from scikit-learn, which isn't installed: give "
            "--image FILE, or pip install scikit-learn"
        ) from None
    return list(load_sample_images().filenames)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindcv_ghost.analysis.redundancy",
        description="Measure how well the feature maps of a layer are predicted from each other by "
        "d x d kernels; write a picture of the most similar pairs and a table of errors.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a MindCV model")
    parser.add_argument("--ckpt_path", help="trained weights (default: random ones)")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="pictures")
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side (224)")
    parser.add_argument("--layer", help="path of a cell (end of the first residual stage)")
    parser.add_argument("--out", type=Path, default=Path("redundancy"), help="folder (redundancy)")
    add_model_arguments(parser, num_classes=1000)
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write table and picture, print the table; return the exit status."""
    args = _parser().parse_args(argv)
    if args.image_size < 8:
        raise ConfigError(f"--image_size is {args.image_size}; it must be at least 8")
    images = read_images(args.image, args.image_size, args.in_channels)
    network = create_model_by_name(
        args.model,
        parse_model_args(args.model_args),
        num_classes=args.num_classes,
        in_channels=args.in_channels,
    )
    if args.ckpt_path:
        print(f"{args.ckpt_path}: {load_weights(network, args.ckpt_path, model=args.model)}")
    else:
        print(
            "warning: no --ckpt_path, so the weights are RANDOM: the results say nothing about a "
            "trained network",
            file=sys.stderr,
        )
    layer = args.layer or default_layer(network)
    maps = feature_maps(network, images, layer)
    result = measure_redundancy(maps)
    table = errors_csv(result)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "errors.csv", table)
    except OSError as problem:
        raise ConfigError(f"--out {args.out} can't be written: {problem}") from None
    print(f"{args.model}, {layer}: {len(result.live)} of {result.channels} maps are live")
    print(table, end="")

    from mindcv_ghost.analysis.redundancy.picture import draw_redundancy

    weights = "" if args.ckpt_path else " (RANDOM WEIGHTS)"
    draw_redundancy(maps, result, f"{args.model}, {layer}{weights}", args.out / "maps.png")
    print(f"written: {args.out / 'errors.csv'}, {args.out / 'maps.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
