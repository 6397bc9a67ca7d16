"""How fast images become batches: our loader against MindSpore's ImageFolderDataset, in one run.

Both read the same 500x375 JPEG photographs (crops of scikit-learn's two sample photographs, about
110 kB each as ImageNet's are) and apply the same C++ operations to 224x224 normalised batches; the
rival has neither our order nor the check that keeps MindSpore's decoder from bad files. Rounds
take turns, so that a busy machine slows both; medians are compared.

    python benchmarks/data_loading.py [--workers 1 2] [--rounds 5]

Predicted before it was written: 0.93 (reading and checking in Python 50 us, handing a row from
Python to C++ 30 us, of 1,000 us that decoding takes). Measured with 7 rounds on 2 cores of a busy
machine, 89 kB an image: 1.01 and 0.91 for training with 1 and 2 workers, 0.96 and 0.95 for
evaluation; by CPU time, which the neighbours disturb less, 0.93, 0.92, 0.98 and 0.96.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mindspore as ms  # noqa: E402
import mindspore.dataset as ds  # noqa: E402
import mindspore.dataset.transforms as data_ops  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from mindcv_ghost.data import Augment, EvalLoader, FolderSource, TrainLoader  # noqa: E402
from mindcv_ghost.data.image_file import jpeg_is_plain  # noqa: E402
from mindcv_ghost.data.transforms import eval_transforms, train_transforms  # noqa: E402

CLASSES, IMAGES_A_CLASS, BATCH = 8, 64, 64
AUGMENT = Augment(color_jitter=None)


def write_photographs(folder: str) -> None:
    """512 different crops, quality 92: 90 to 130 kB each."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        os.makedirs(os.path.join(folder, str(label)))
        for k in range(IMAGES_A_CLASS):
            photograph = photographs[(label + k) % 2]
            left = int(draw.integers(0, photograph.width - 500 + 1))
            top = int(draw.integers(0, photograph.height - 375 + 1))
            crop = photograph.crop((left, top, left + 500, top + 375))
            crop.save(os.path.join(folder, str(label), f"{k}.jpg"), quality=96)


def rival(folder: str, training: bool, workers: int) -> ds.Dataset:
    """The same work from MindSpore's own folder reader."""
    dataset = ds.ImageFolderDataset(folder, shuffle=training, num_parallel_workers=workers)
    if training:
        steps = train_transforms("imagenet", AUGMENT)
        ops = steps.before + steps.middle + steps.after
    else:
        ops = eval_transforms("imagenet", AUGMENT)
    dataset = dataset.map(ops, "image", num_parallel_workers=workers)
    dataset = dataset.map(data_ops.TypeCast(ms.int32), "label", num_parallel_workers=1)
    return dataset.batch(BATCH, drop_remainder=True)


def ours(source: FolderSource, training: bool, workers: int):
    """Our loader's batches."""
    if training:
        loader = TrainLoader(
            source, AUGMENT, batch_size=BATCH, num_classes=CLASSES, workers=workers
        )
        return loader.epoch(0)
    return EvalLoader(source, AUGMENT, batch_size=BATCH, workers=workers).batches()


def pass_through(batches) -> tuple[float, float]:
    """Images a second and CPU microseconds an image, start of the pipeline included."""
    started, cpu, images = time.perf_counter(), time.process_time(), 0
    for batch in batches.create_tuple_iterator(num_epochs=1, output_numpy=True):
        images += len(batch[0])
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return images / seconds, cpu / images * 1e6


def check_cost_us(folder: str) -> tuple[float, float]:
    """Microseconds an image for reading it, and for the check of its structure alone."""
    paths = [str(path) for path in Path(folder).rglob("*.jpg")]
    files = [Path(path).read_bytes() for path in paths]
    started = time.perf_counter()
    for data in files:
        assert jpeg_is_plain(data)
    check = (time.perf_counter() - started) / len(files) * 1e6
    source = FolderSource(folder)
    started = time.perf_counter()
    for index in range(len(source)):
        source[index]
    return (time.perf_counter() - started) / len(source) * 1e6, check


def main() -> None:
    """Print a line a case: what each reaches, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(folder)
        source = FolderSource(folder)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.jpg")) / len(source)
        read, check = check_cost_us(folder)
        print(f"{len(source)} images of {size / 1000:.0f} kB on {os.cpu_count()} cores")
        print(f"an image read and checked: {read:.0f} us, of which the check {check:.0f} us")
        for training in (True, False):
            for workers in args.workers:
                mine, other = [], []
                for _ in range(args.rounds):
                    mine.append(pass_through(ours(source, training, workers)))
                    other.append(pass_through(rival(folder, training, workers)))
                speed, cpu = (statistics.median(column) for column in zip(*mine))
                rivals_speed, rivals_cpu = (statistics.median(column) for column in zip(*other))
                print(
                    f"{'train' if training else 'eval '} workers {workers}: "
                    f"ours {speed:5.0f} images/s, ImageFolderDataset {rivals_speed:5.0f}, "
                    f"ratio {speed / rivals_speed:.3f}; CPU {cpu:.0f} and {rivals_cpu:.0f} us an "
                    f"image, ratio {rivals_cpu / cpu:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
