"""How fast the run folder takes checkpoints, and the image folder gives images."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mindcv_ghost.config import Config
from mindcv_ghost.doctor.findings import BROKEN, OK, SLOW, Finding

__all__ = ["images", "run_folder", "visit"]

_TRIAL_BYTES = 64 << 20
_PIECE_BYTES = 4 << 20
# Below these a save of ghost_resnet50's state (160 MB with its checkpoint) takes more than 3 s.
_SLOW_WRITE_MB, _SLOW_READ_MB = 50, 100
_LEAST_FREE, _GOOD_FREE = 400 << 20, 4 << 30
_SAMPLE, _SAMPLE_SECONDS = 512, 20.0
# A device trains ghost_resnet50 at 1,000 images a second and more; two CPU cores at 50.
_SLOW_IMAGES = {"CPU": 100, "auto": 100}
_SLOW_IMAGES_ON_DEVICES = 1000


@contextmanager
def visit(folder: Path) -> Iterator[Path]:
    """Give a folder of the doctor's own in ``folder``; leave no trace of it, or of ``folder``.

    Raises:
        OSError: if it can't be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    own = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=folder))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        for path in made:
            try:
                path.rmdir()
            except OSError:  # somebody has put something there
                break


def _sweep(folder: Path) -> None:
    """Remove what doctors of this host left who were killed."""
    for old in folder.glob(f"{_prefix()}*-*"):
        number = old.name[len(_prefix()) :].split("-")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/1").exists():
            shutil.rmtree(old, ignore_errors=True)


def _prefix() -> str:
    """Of this host's folders: others may share the disk."""
    return f"doctor-{zlib.crc32(socket.gethostname().encode()):08x}-"


def run_folder(
    folder: Path, size: int = _TRIAL_BYTES, clock: Callable[[], float] = time.perf_counter
) -> Finding:
    """Write a file as large as a checkpoint into the run folder, and read it again.

    Args:
        folder: ``ckpt_save_dir``.
        size: of the file, in bytes.
        clock: returns seconds; for tests.
    """
    what = "run folder"
    try:
        with visit(folder) as own:
            free = shutil.disk_usage(own).free
            if free < min(size * 2, _LEAST_FREE):
                raise OSError(28, "No space left on device")
            started = clock()
            _write(own / "trial", size)
            wrote = size / 1e6 / max(clock() - started, 1e-9)
            started = clock()
            _read(own / "trial", size)
            read = size / 1e6 / max(clock() - started, 1e-9)
    except OSError as error:
        remedy = "give another folder with --ckpt_save_dir, or make this one writable"
        text = f"{folder} can't be written ({error.strerror or error})"
        return Finding(what, BROKEN, text, remedy, blocks=True)
    text = (
        f"{folder}: {free / 1e9:.1f} GB free, writes {wrote:,.0f} MB/s (slow below "
        f"{_SLOW_WRITE_MB}), reads {read:,.0f} MB/s (slow below {_SLOW_READ_MB})"
    )
    numbers = {"free_bytes": free, "write_mb_per_second": wrote, "read_mb_per_second": read}
    state, remedy = OK, ""
    if wrote < _SLOW_WRITE_MB or read < _SLOW_READ_MB:
        state, remedy = SLOW, "choose a faster disk with --ckpt_save_dir, or save less often"
    if free < _LEAST_FREE:
        state, remedy = BROKEN, "make room: a run keeps about 400 MB at the least"
    elif free < _GOOD_FREE:
        state, remedy = SLOW, "make room: ten checkpoints and two states take up to 4 GB"
    return Finding(what, state, text, remedy, numbers)


def _write(path: Path, size: int) -> None:
    # Not zeros: some file systems store those for nothing.
    piece = os.urandom(_PIECE_BYTES)
    with open(path, "wb", buffering=0) as file:
        for start in range(0, size, _PIECE_BYTES):
            file.write(piece[: size - start])
        os.fsync(file.fileno())


def _read(path: Path, size: int) -> None:
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # from the disk, not from memory
            os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        while file.read(_PIECE_BYTES):
            pass


def images(config: Config, device: str, clock: Callable[[], float] = time.perf_counter) -> Finding:
    """Scan the image folder as a training does, and read and decode a sample of its files.

    Args:
        config: with ``data_dir``.
        device: Ascend, GPU or CPU, which says how many images a second are few; for auto, which
            nobody has resolved yet, as many as for the CPU.
        clock: returns seconds; for tests.
    """
    from mindcv_ghost.data.sets.sources import open_source

    what, data = "images", config.dataset
    started = clock()
    source = open_source(
        *(data.dataset, data.data_dir, data.train_split),
        on_bad_image="skip",
        in_channels=config.model.in_channels,
    )
    scanned = clock() - started
    count = len(source)
    chosen = random.Random(0).sample(range(count), min(_SAMPLE, count))
    deadline = clock() + _SAMPLE_SECONDS
    sizes: list[int] = []
    bad: list[str] = []

    def one(index: int) -> None:
        if clock() > deadline:
            return
        try:
            pixels, size = _decoded(source, index)
        except Exception as error:
            bad.append((str(error).splitlines() or [type(error).__name__])[0])
            return
        if pixels:
            sizes.append(size)

    started = clock()
    with ThreadPoolExecutor(max_workers=config.workers) as pool:
        list(pool.map(one, chosen))
    seconds = max(clock() - started, 1e-9)
    speed, megabytes = len(sizes) / seconds, sum(sizes) / 1e6 / seconds
    few = _SLOW_IMAGES.get(device, _SLOW_IMAGES_ON_DEVICES)
    text = (
        f"{count:,} in {source.num_classes} classes, listed in {scanned:.1f} s; {len(sizes)} read "
        f"and decoded whole by {config.workers} threads: {speed:,.0f} images/s, {megabytes:,.1f} "
        f"MB/s (slow below {few:,} images/s)"
    )
    numbers = {
        "images": count,
        "scan_seconds": scanned,
        "images_per_second": speed,
        "mb_per_second": megabytes,
    }
    if bad:
        text += f"; {len(bad)} of {len(chosen)} can't be read, as {bad[0]}"
        remedy = "mend or remove such files, or train with --on_bad_image skip"
        return Finding(what, BROKEN, text, remedy, numbers)
    if speed < few:
        remedy = "put the images on a local disk, or give the job more cores"
        return Finding(what, SLOW, text, remedy, numbers)
    return Finding(what, OK, text, numbers=numbers)


def _decoded(source, index: int) -> tuple[int, int]:
    """Pixels and bytes of an image, by Pillow."""
    import io

    from PIL import Image

    data, _ = source[index]
    if not source.encoded:
        return data.size, data.nbytes
    with Image.open(io.BytesIO(data.tobytes())) as image:
        image.load()
        return image.width * image.height, data.nbytes
