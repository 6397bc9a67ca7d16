"""Images/s from files to batches: our loader, timm's on Pillow, MindSpore's ImageFolderDataset.

All read the same 500x375 photographs of about 90 kB and make normalised 224x224 batches of 64:
random crop and flip for training, resize and centre crop for evaluation. timm decodes with Pillow
in worker processes; it is measured with and without its prefetcher, and the better result counts.
MindSpore's ImageFolderDataset runs MindSpore's C++ operations, without our order of images and
without the check that protects MindSpore's decoder from files that crash it. Ours runs C++ of our
own around libjpeg-turbo (``data/native``); in evaluation its pixels equal MindSpore's bit by bit.

The time counts from the first batch to the last, without the start. The loaders are measured in
turn, and their medians are compared. Decoded images aren't kept (``cache_mb`` is 0), because
ImageNet's wouldn't fit. A worker is a thread of our loader and a process of timm's. timm's
prefetcher computes in the consumer's process in addition to the workers; our loader doesn't.

An image takes one thread of an AMD EPYC (Zen 4): 0.50 ms for Huffman decoding down to the crop's
last row, 0.15 for inverse transform and colours, 0.07 for scaling, 0.04 for writing floats into the
batch, 0.03 for reading and checking the file, 0.03 for the rest.

Predicted from that: 1,200 images/s per worker, 2.1 times timm's with one worker and 2.6 times with
two. Measured: 1,030 images/s and 2.3 times with one worker, 2,270 and 3.3 times with two; in
evaluation with two workers 1,940 and 3.8 times. MindSpore's pipeline had reached 1.5 and 1.2 times.

Small images in memory: batches of 128 images of Fashion-MNIST's format, 1x28x28, padded, cropped,
flipped and normalised by MindSpore's operations behind its MnistDataset, and by ours. Predicted
before the measurement: an image takes us 2 us in C++ and 5 us of Python, which is 30 us for each
call of eight images, so about 120,000 images/s with one worker and no more with two, because Python
runs one thread at a time. MindSpore hands each image from operation to operation, at about 10 us
each: 15,000 with one worker and 25,000 with two, so ours is about 8 and 5 times as fast. Measured:
309,000 and 325,000 images/s against 37,000 and 36,000, 8 and 9 times. Both had been underestimated,
and a second worker helps neither. Ours without Python's part would be faster still, but a small
Ghost network trains at a hundredth of this speed.

    python benchmarks/data_loading.py [--workers 1 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mindspore as ms  # noqa: E402
import mindspore.dataset as ds  # noqa: E402
import mindspore.dataset.transforms as data_ops  # noqa: E402
import numpy as np  # noqa: E402
from mindcv.data import create_transforms  # noqa: E402

from benchmarks.harness import TimeBudget, fail_if_left_out, medians_of_rounds, print_row  # noqa: E402
from benchmarks.photographs import write_photographs  # noqa: E402
from mindcv_ghost.data import (  # noqa: E402
    Augment,
    EvalLoader,
    FolderSource,
    TrainLoader,
    open_source,
)
from mindcv_ghost.data.transforms.factory import train_transforms  # noqa: E402

CLASSES, IMAGES_A_CLASS, BATCH, SIDE = 8, 112, 64, 224
SMALL_IMAGES, SMALL_BATCH = 30_000, 128
AUGMENT = Augment(color_jitter=None)
# Rival -> its measures, of which the best counts.
RIVALS = {
    "MindSpore's ImageFolderDataset": ("ImageFolderDataset",),
    "timm's loader on Pillow": ("timm False", "timm True"),
}


def speed(batches: Iterable) -> float:
    """Return the images/s from the first batch to the last."""
    images, started = 0, None
    for batch in batches:
        if started is None:
            started = time.perf_counter()
        else:
            images += len(batch[0])
    return images / (time.perf_counter() - started)


def ours(source: FolderSource, training: bool, workers: int) -> Iterable:
    """Return our loader's batches."""
    if training:
        loader = TrainLoader(
            source, AUGMENT, batch_size=BATCH, num_classes=CLASSES, workers=workers
        )
        batches = loader.epoch(0)
    else:
        batches = EvalLoader(source, AUGMENT, batch_size=BATCH, workers=workers).batches()
    return batches.create_tuple_iterator(num_epochs=1, output_numpy=True)


def folder_reader(folder: str, training: bool, workers: int) -> Iterable:
    """Return the batches of MindSpore's ImageFolderDataset with MindCV's transforms."""
    dataset = ds.ImageFolderDataset(folder, shuffle=training, num_parallel_workers=workers)
    no_jitter = {"color_jitter": None} if training else {}  # not an argument for evaluation
    ops = create_transforms("imagenet", image_resize=SIDE, is_training=training, **no_jitter)
    dataset = dataset.map(ops, "image", num_parallel_workers=workers)
    dataset = dataset.map(data_ops.TypeCast(ms.int32), "label", num_parallel_workers=1)
    dataset = dataset.batch(BATCH, drop_remainder=True)
    return dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)


def timm_loader(folder: str, training: bool, workers: int, prefetcher: bool) -> Iterable:
    """Return timm's loader on the CPU."""
    import torch
    from timm.data import ImageDataset, create_loader

    return create_loader(
        ImageDataset(folder),
        input_size=(3, SIDE, SIDE),
        batch_size=BATCH,
        is_training=training,
        use_prefetcher=prefetcher,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=workers,
        device=torch.device("cpu"),
        pin_memory=False,
        persistent_workers=False,
    )


def write_small_images(folder: str) -> None:
    """Write a training split in the format of MNIST and Fashion-MNIST; noise takes as long."""
    draw = np.random.default_rng(0)
    for prefix, count in (("train", SMALL_IMAGES), ("t10k", 1)):
        pixels = draw.integers(0, 256, (count, 28, 28), np.uint8).tobytes()
        images = np.array([0x803, count, 28, 28], ">u4").tobytes() + pixels
        labels = np.array([0x801, count], ">u4").tobytes()
        labels += draw.integers(0, 10, count, np.uint8).tobytes()
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            Path(folder, f"{prefix}-{kind}-ubyte").write_bytes(content)


def our_small_images(folder: str, workers: int) -> Iterable:
    """Return our loader's batches of small images in memory."""
    source = open_source("fashion_mnist", folder, "train", in_channels=1)
    augment = Augment(image_resize=28)
    loader = TrainLoader(
        source, augment, batch_size=SMALL_BATCH, num_classes=CLASSES, workers=workers
    )
    return loader.epoch(0).create_tuple_iterator(num_epochs=1, output_numpy=True)


def mnist_reader(folder: str, workers: int) -> Iterable:
    """Return the batches of MindSpore's MnistDataset with the same operations."""
    dataset = ds.MnistDataset(folder, "train", shuffle=True, num_parallel_workers=workers)
    transforms = train_transforms("fashion_mnist", Augment(image_resize=28), in_channels=1)
    dataset = dataset.map(
        transforms.primary + transforms.final, "image", num_parallel_workers=workers
    )
    dataset = dataset.map(data_ops.TypeCast(ms.int32), "label", num_parallel_workers=1)
    dataset = dataset.batch(SMALL_BATCH, drop_remainder=True)
    return dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)


def small_measures(folder: str, workers: int) -> dict[str, Callable[[], float]]:
    """Return what is measured in turn for small images: name -> function."""
    return {
        "ours": lambda: speed(our_small_images(folder, workers)),
        "MnistDataset": lambda: speed(mnist_reader(folder, workers)),
    }


def find_timm() -> bool:
    """Return whether timm can be imported, as tests/helpers/needs_torch.py does it."""
    try:
        from tests.helpers.needs_torch import _imported

        _imported()
    except ImportError:
        return False
    return True


def measures(source: FolderSource, folder: str, training: bool, workers: int) -> dict:
    """Return what is measured in turn: name -> function."""
    found: dict[str, Callable[[], float]] = {
        "ours": lambda: speed(ours(source, training, workers)),
    }
    if find_timm():  # first, because the goal is for its ratio
        for prefetcher in (False, True):
            found[f"timm {prefetcher}"] = lambda prefetcher=prefetcher: speed(
                timm_loader(folder, training, workers, prefetcher)
            )
    found["ImageFolderDataset"] = lambda: speed(folder_reader(folder, training, workers))
    return found


def main() -> None:
    """Print a row for each case and rival."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    budget, left_out = TimeBudget(), []
    with tempfile.TemporaryDirectory() as folder:
        write_small_images(folder)
        for workers in args.workers:
            found = small_measures(folder, workers)
            medians = medians_of_rounds(found, args.rounds, budget, 2 * len(args.workers))
            case = f"1x28x28, {workers} worker{'s' if workers > 1 else ''}"
            if len(medians) < len(found):
                left_out.append(case)
                continue
            value, other = medians["ours"], medians["MnistDataset"]
            rival = "MindSpore's MnistDataset"
            print_row("arrays to batch", case, value, "images/s", rival, other, value / other)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(folder, CLASSES, IMAGES_A_CLASS)
        source = FolderSource(folder)
        cases = [(True, workers) for workers in args.workers] + [(False, max(args.workers))]
        for number, (training, workers) in enumerate(cases):
            found = measures(source, folder, training, workers)
            medians = medians_of_rounds(found, args.rounds, budget, len(cases) - number)
            kind = "training" if training else "evaluation"
            case = f"{kind}, {workers} worker{'s' if workers > 1 else ''}"
            for rival, ways in RIVALS.items():
                ways = [way for way in ways if way in found]
                # Both ways have to be measured to know the better one.
                if not all(way in medians for way in ways):
                    left_out.append(f"{case}, {rival}")
                elif ways:
                    value, other = medians["ours"], max(medians[way] for way in ways)
                    goal = ">= 2" if rival.startswith("timm") and training else ""
                    print_row(
                        "JPEG to batch", case, value, "images/s", rival, other, value / other, goal
                    )
        fail_if_left_out(left_out)


if __name__ == "__main__":
    main()
