"""How fast JPEGs become batches: our loader, timm's on Pillow, and MindSpore's own folder reader.

All read the same 500x375 photographs of about 90 kB and make normalised 224x224 batches of 64:
random crop and flip for training, resize and centre crop for evaluation. timm decodes in worker
processes with Pillow; the better of its two ways (with and without its prefetcher) counts.
MindSpore's ImageFolderDataset runs MindSpore's C++ operations without our order and without the
check that keeps MindSpore's decoder from files that kill it. Ours makes images by C++ of its own
around libjpeg-turbo (``data/native``): evaluation has MindSpore's pixels to the last bit.

Images a second from the first batch to the last, so that no start counts; the loaders take turns
and medians are compared. Nothing is kept decoded (``cache_mb`` is 0), as ImageNet couldn't be. A
worker is a thread of ours, a process of timm's; beside its workers timm's prefetcher computes in
the consumer's process, ours doesn't.

Where an image's time goes, one thread, AMD EPYC (Zen 4): 0.50 ms undoing the Huffman code down to
the crop's last row, 0.15 inverse transform, colours, 0.07 scaling, 0.04 floats into the batch, 0.03
reading and checking the file, 0.03 the rest. Predicted from that: 1,200 images a second and worker,
2.1 times timm's with one worker and 2.6 with two. Measured: 1,030 and 2.3 times, 2,270 and 3.3; in
evaluation with two workers 1,940 and 3.8. Through MindSpore's pipeline it was 1.5 and 1.2 times.

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
from mindcv.data import create_transforms  # noqa: E402

from benchmarks.photographs import write_photographs  # noqa: E402
from benchmarks.rows import Allowance, alternate, print_row, tell_left_out  # noqa: E402
from mindcv_ghost.data import Augment, EvalLoader, FolderSource, TrainLoader  # noqa: E402

CLASSES, IMAGES_A_CLASS, BATCH, SIDE = 8, 112, 64, 224
AUGMENT = Augment(color_jitter=None)
# What stands in the rows, and which measures it is the better of.
RIVALS = {
    "MindSpore's ImageFolderDataset": ("ImageFolderDataset",),
    "timm's loader on Pillow": ("timm False", "timm True"),
}


def speed(batches: Iterable) -> float:
    """Images a second, from the first batch to the last."""
    images, started = 0, None
    for batch in batches:
        if started is None:
            started = time.perf_counter()
        else:
            images += len(batch[0])
    return images / (time.perf_counter() - started)


def ours(source: FolderSource, training: bool, workers: int) -> Iterable:
    """Our loader's batches."""
    if training:
        loader = TrainLoader(
            source, AUGMENT, batch_size=BATCH, num_classes=CLASSES, workers=workers
        )
        batches = loader.epoch(0)
    else:
        batches = EvalLoader(source, AUGMENT, batch_size=BATCH, workers=workers).batches()
    return batches.create_tuple_iterator(num_epochs=1, output_numpy=True)


def folder_reader(folder: str, training: bool, workers: int) -> Iterable:
    """MindSpore's own reader with MindCV's transforms."""
    dataset = ds.ImageFolderDataset(folder, shuffle=training, num_parallel_workers=workers)
    no_jitter = {"color_jitter": None} if training else {}  # evaluation knows no such argument
    ops = create_transforms("imagenet", image_resize=SIDE, is_training=training, **no_jitter)
    dataset = dataset.map(ops, "image", num_parallel_workers=workers)
    dataset = dataset.map(data_ops.TypeCast(ms.int32), "label", num_parallel_workers=1)
    dataset = dataset.batch(BATCH, drop_remainder=True)
    return dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)


def timm_loader(folder: str, training: bool, workers: int, prefetcher: bool) -> Iterable:
    """timm's loader, on the CPU."""
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


def find_timm() -> bool:
    """Whether timm can be imported; tests/helpers/needs_torch.py knows what it needs."""
    try:
        from tests.helpers.needs_torch import _imported

        _imported()
    except ImportError:
        return False
    return True


def measures(source: FolderSource, folder: str, training: bool, workers: int) -> dict:
    """What is to be measured in turn."""
    found: dict[str, Callable[[], float]] = {
        "ours": lambda: speed(ours(source, training, workers)),
    }
    if find_timm():  # it has the goal, so it is measured first
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
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(folder, CLASSES, IMAGES_A_CLASS)
        source = FolderSource(folder)
        cases = [(True, workers) for workers in args.workers] + [(False, max(args.workers))]
        allowance, left_out = Allowance(), []
        for number, (training, workers) in enumerate(cases):
            found = measures(source, folder, training, workers)
            medians = alternate(found, args.rounds, allowance, len(cases) - number)
            kind = "training" if training else "evaluation"
            case = f"{kind}, {workers} worker{'s' if workers > 1 else ''}"
            for rival, ways in RIVALS.items():
                ways = [way for way in ways if way in found]
                # The better of two ways is known only once both are.
                if not all(way in medians for way in ways):
                    left_out.append(f"{case}, {rival}")
                elif ways:
                    value, other = medians["ours"], max(medians[way] for way in ways)
                    goal = ">= 2" if rival.startswith("timm") and training else ""
                    print_row(
                        "JPEG to batch", case, value, "images/s", rival, other, value / other, goal
                    )
        tell_left_out(left_out)


if __name__ == "__main__":
    main()
