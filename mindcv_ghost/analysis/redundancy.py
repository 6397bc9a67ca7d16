"""How much the feature maps of a trained network repeat each other: the Ghost paper's motivation.

    python -m mindcv_ghost.analysis.redundancy resnet50 --ckpt_path resnet50.ckpt --image dog.jpg

Han et al. (arXiv 1911.11907) show ResNet-50's maps behind its first residual stage, three pairs of
them alike (figure 1), and how well a d x d kernel makes one map of each pair of the other (table
"MSE error v.s. different kernel sizes"). Here every map is tried as the source of every other one,
by least squares with a constant, on any network and layer.

Writes ``maps.png``, the maps with the nearest pairs in coloured boxes, and ``errors.csv``: errors
of these pairs, and over all maps, for each size of kernel. "relative" is the mean squared error by
the variance of the map that is to be made: 0 is a perfect copy, 1 no better than a constant.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import difflib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.analysis.least_squares import map_values, pair_residuals, sample_positions
from mindcv_ghost.analysis.observation import observed
from mindcv_ghost.errors import ConfigError, DataError, tells_user_errors
from mindcv_ghost.registry import add_model_arguments, create_model_by_name, parse_model_args
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.checkpoint import load_weights

__all__ = ["Redundancy", "default_layer", "feature_maps", "main", "measure_redundancy"]

SIZES = (1, 3, 5, 7)  # the paper's
EXAMPLES = 3  # pairs, as in the paper's figure
_SHOWN_SIZE = 3  # the kernel whose errors choose the pairs
_POSITIONS = 4096
# A map that varies less, by the median's variance, counts as dead: nothing is seen in it.
_DEAD = 1e-2
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Redundancy:
    """How well each live map of a layer can be made from each other one.

    Args:
        live: numbers of the maps that aren't dead, of shape (L,).
        channels: how many maps there are.
        variance: of each live map, of shape (L,).
        relative: for each size of kernel the relative errors, source by target, of shape (L, L);
            infinite on the diagonal.
        pairs: pairs of maps that are nearest to each other, disjoint, as (source, target): numbers
            of the layer's maps.
    """

    live: np.ndarray
    channels: int
    variance: np.ndarray
    relative: dict[int, np.ndarray]
    pairs: tuple[tuple[int, int], ...]

    def of_pair(self, source: int, target: int, size: int) -> tuple[float, float]:
        """Mean squared and relative error of making one map from another."""
        i, j = np.searchsorted(self.live, (source, target))
        relative = float(self.relative[size][i, j])
        return relative * float(self.variance[j]), relative

    def best(self, size: int) -> np.ndarray:
        """Relative error of each live map made from its best source, of shape (L,)."""
        return self.relative[size].min(axis=0)


def default_layer(network: nn.Cell) -> str:
    """Find the layer behind the first residual stage: where MindCV says maps are 1/4 of the image.

    Raises:
        ConfigError: if the network doesn't say.
    """
    cells = dict(network.cells_and_names())
    for info in getattr(network, "feature_info", None) or ():
        if info.get("reduction", 0) >= 4 and info.get("name") in cells:
            return info["name"]
    names = [name for name in cells if name]
    raise ConfigError(
        f"{type(network).__name__} doesn't say where its stages end; give --layer, for example "
        f"{', '.join(names[:: max(1, len(names) // 6)][:6])}"
    )


def feature_maps(network: nn.Cell, images: np.ndarray, layer: str) -> np.ndarray:
    """Run a network in evaluation and give what a layer puts out, (N, C, H, W).

    Args:
        network: takes one tensor; neither weights nor mode change.
        images: of shape (N, C, H, W), normalised.
        layer: path of a cell; of one that runs several times, the last output.

    Raises:
        ConfigError: if there is no such cell, or it doesn't put out maps.
    """
    cells = {name: cell for name, cell in network.cells_and_names() if name}
    if layer not in cells:
        near = difflib.get_close_matches(layer, cells, n=5, cutoff=0.4) or list(cells)[:5]
        raise ConfigError(f"--layer: there is no layer {layer!r}; there are {', '.join(near)}")
    outputs: list[Any] = []

    def keep(_name: str, _cell: nn.Cell, _inputs: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)

    with observed(network, {layer: cells[layer]}, keep):
        network(Tensor(images))
    shape = tuple(getattr(outputs[-1], "shape", ())) if outputs else ()
    if len(shape) != 4 or min(shape[2:]) < 2 or shape[1] < 2:
        what = f"something of shape {shape}" if outputs else "nothing: it doesn't run"
        raise ConfigError(f"--layer {layer} puts out {what}; maps (N, C, H, W) are needed")
    return outputs[-1].asnumpy()


def measure_redundancy(maps: np.ndarray, sizes: Sequence[int] = SIZES, seed: int = 0) -> Redundancy:
    """Fit every live map from every other one by kernels of each size.

    Args:
        maps: of shape (N, C, H, W).
        sizes: of the kernels, odd.
        seed: of the 4096 positions that are looked at, where there are more.

    Raises:
        DataError: if fewer than two maps are live.
    """
    count, channels, height, width = maps.shape
    variance = maps.var(axis=(0, 2, 3), dtype=np.float64)
    usual = np.median(variance[variance > 0]) if (variance > 0).any() else 0.0
    live = np.flatnonzero(variance > _DEAD * usual)
    if len(live) < 2:
        raise DataError(f"{len(live)} of {channels} maps vary: there is no pair to look at")
    maps = maps[:, live] / np.sqrt(variance[live]).astype(np.float32)[:, None, None]
    rng = np.random.default_rng(seed)
    positions = sample_positions(count, height, width, _POSITIONS, rng)
    targets = map_values(maps, positions)
    relative = {}
    for size in sizes:
        errors = pair_residuals(maps, targets, positions, size, intercept=True)
        np.fill_diagonal(errors, np.inf)
        relative[size] = errors / np.maximum(targets.var(axis=1), 1e-12)
    chosen = relative[_SHOWN_SIZE if _SHOWN_SIZE in relative else max(relative)]
    pairs = tuple((int(live[i]), int(live[j])) for i, j in _nearest(chosen))
    return Redundancy(live, channels, variance[live], relative, pairs)


def _nearest(errors: np.ndarray) -> list[tuple[int, int]]:
    """The smallest errors, each map in one pair at most."""
    errors, pairs = errors.copy(), []
    while len(pairs) < EXAMPLES and np.isfinite(errors).any():
        i, j = np.unravel_index(errors.argmin(), errors.shape)
        pairs.append((int(i), int(j)))
        errors[[i, j]] = errors[:, [i, j]] = np.inf
    return pairs


def errors_csv(result: Redundancy) -> str:
    """The paper's table, and the same over all maps, as CSV."""
    sizes = list(result.relative)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("what", "measure", "source", "target", *(f"d={size}" for size in sizes)))
    for number, (source, target) in enumerate(result.pairs, start=1):
        values = [result.of_pair(source, target, size) for size in sizes]
        for measure, column in (("mse", 0), ("relative", 1)):
            errors = (f"{value[column]:.4g}" for value in values)
            writer.writerow((f"pair {number}", measure, source, target, *errors))
    best = [result.best(size) for size in sizes]
    summaries = {
        "each map from its best source: median": [np.median(b) for b in best],
        "each map from its best source: mean": [b.mean() for b in best],
        "each map from its best source: share below 0.1": [(b < 0.1).mean() for b in best],
        "all pairs: median": [
            np.median(errors[np.isfinite(errors)]) for errors in result.relative.values()
        ],
    }
    for what, values in summaries.items():
        writer.writerow((what, "relative", "", "", *(f"{value:.4g}" for value in values)))
    return out.getvalue()


def read_images(files: Sequence[str], size: int, channels: int) -> np.ndarray:
    """Read pictures, scale their short side and cut out the middle; (N, channels, size, size).

    Without files, the two photographs that scikit-learn comes with.

    Raises:
        DataError: if a file is missing or is no picture, or scikit-learn isn't installed.
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
            "give pictures by --image FILE: those that are taken without it come with "
            "scikit-learn, which isn't installed (pip install scikit-learn)"
        ) from None
    return list(load_sample_images().filenames)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindcv_ghost.analysis.redundancy",
        description="How well the feature maps of a layer can be made from each other by d x d "
        "kernels, as a picture of the nearest pairs and a table of errors.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a MindCV model")
    parser.add_argument("--ckpt_path", help="trained weights (random ones without it)")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="pictures")
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side (224)")
    parser.add_argument("--layer", help="path of a cell (behind the first residual stage)")
    parser.add_argument("--out", type=Path, default=Path("redundancy"), help="folder (redundancy)")
    add_model_arguments(parser, num_classes=1000)
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write table and picture, print what came out; return the exit status."""
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
        load_weights(network, args.ckpt_path)
    else:
        print(
            "warning: no --ckpt_path, so the weights are RANDOM: what follows says nothing about a "
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

    from mindcv_ghost.analysis.redundancy_picture import draw_redundancy

    weights = "" if args.ckpt_path else " (RANDOM WEIGHTS)"
    draw_redundancy(maps, result, f"{args.model}, {layer}{weights}", args.out / "maps.png")
    print(f"written: {args.out / 'errors.csv'}, {args.out / 'maps.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
