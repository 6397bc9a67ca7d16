"""Checks of the run folder and of the images, with their speed."""

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
from typing import TYPE_CHECKING

from mindcv_ghost.config import Config
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, SLOW, CheckResult
from mindcv_ghost.errors import MissingDataError, first_line

if TYPE_CHECKING:
    from mindcv_ghost.data.sets.sources import Source

__all__ = ["check_images", "check_run_folder", "scratch_folder"]

_FILE_BYTES = 64 << 20
_BLOCK_BYTES = 4 << 20
# Slower than this, saving ghost_resnet50's state and checkpoint (160 MB) takes more than 3 s.
_SLOW_WRITE_MB, _SLOW_READ_MB = 50, 100
_LEAST_FREE, _GOOD_FREE = 400 << 20, 4 << 30
_SAMPLE, _SAMPLE_SECONDS = 512, 20.0
# A device trains ghost_resnet50 at 1,000 images a second and more; two CPU cores at 50.
_SLOW_IMAGES = {"CPU": 100, "auto": 100}
_SLOW_IMAGES_ON_DEVICES = 1000


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Create a temporary folder in ``folder``; on exit, remove it and any parents it had to create.

    Args:
        folder: need not exist.

    Yields:
        The temporary folder.

    Raises:
        OSError: if it can't be created.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for path in created:
            try:
                path.rmdir()
            except OSError:  # no longer empty
                break


def _remove_leftovers(folder: Path) -> None:
    """Remove folders of this host's doctors that were killed."""
    for old in folder.glob(f"{_prefix()}*-*"):
        number = old.name[len(_prefix()) :].split("-")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/1").exists():
            shutil.rmtree(old, ignore_errors=True)


def _prefix() -> str:
    """Return the prefix of this host's folders; other hosts may share the disk."""
    return f"doctor-{zlib.crc32(socket.gethostname().encode()):08x}-"


def check_run_folder(
    folder: Path, size: int = _FILE_BYTES, clock: Callable[[], float] = time.perf_counter
) -> CheckResult:
    """Write a file into the run folder and read it, and measure the speed.

    Args:
        folder: ``ckpt_save_dir``.
        size: of the file, in bytes.
        clock: returns the time in seconds; for tests.
    """
    what = "run folder"
    try:
        with scratch_folder(folder) as scratch:
            free = shutil.disk_usage(scratch).free
            if free < min(size * 2, _LEAST_FREE):
                raise OSError(28, "No space left on device")
            started = clock()
            _write(scratch / "test_file", size)
            write_speed = size / 1e6 / max(clock() - started, 1e-9)
            started = clock()
            _read(scratch / "test_file", size)
            read_speed = size / 1e6 / max(clock() - started, 1e-9)
    except OSError as error:
        remedy = "choose another folder with --ckpt_save_dir, or make this one writable"
        text = f"{folder} can't be written ({error.strerror or error})"
        return CheckResult(what, BROKEN, text, remedy, blocks=True)
    text = (
        f"{folder}: {free / 1e9:.1f} GB free, writes {write_speed:,.0f} MB/s (slow below "
        f"{_SLOW_WRITE_MB}), reads {read_speed:,.0f} MB/s (slow below {_SLOW_READ_MB})"
    )
    numbers = {
        "free_bytes": free,
        "write_mb_per_second": write_speed,
        "read_mb_per_second": read_speed,
    }
    state, remedy = OK, ""
    if write_speed < _SLOW_WRITE_MB or read_speed < _SLOW_READ_MB:
        state, remedy = SLOW, "choose a faster disk with --ckpt_save_dir, or save less often"
    if free < _LEAST_FREE:
        state, remedy = BROKEN, "free some space: a run needs at least 400 MB"
    elif free < _GOOD_FREE:
        state, remedy = SLOW, "free some space: ten checkpoints and two states take up to 4 GB"
    return CheckResult(what, state, text, remedy, numbers)


def _write(path: Path, size: int) -> None:
    # Random bytes: some file systems don't write blocks of zeros.
    block = os.urandom(_BLOCK_BYTES)
    with open(path, "wb", buffering=0) as file:
        for start in range(0, size, _BLOCK_BYTES):
            file.write(block[: size - start])
        os.fsync(file.fileno())


def _read(path: Path, size: int) -> None:
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # drop the page cache, so that the disk is measured
            os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        while file.read(_BLOCK_BYTES):
            pass


def check_images(
    config: Config, device: str, clock: Callable[[], float] = time.perf_counter
) -> CheckResult:
    """Scan the image folder as training does, then read and decode a sample of its files.

    Args:
        config: with ``data_dir``.
        device: Ascend, GPU or CPU, which sets the threshold; auto, which isn't resolved yet, has
            the CPU's.
        clock: returns the time in seconds; for tests.

    Raises:
        DataError: if there is no such data set.
    """
    from mindcv_ghost.data.sets.sources import open_source

    what, data = "images", config.dataset
    started = clock()
    try:
        source = open_source(
            *(data.dataset, data.data_dir, data.train_split),
            on_bad_image="skip",
            in_channels=config.model.in_channels,
            system_files=config.system_files,
        )
    except MissingDataError:
        if not data.dataset_download:
            raise
        return CheckResult(what, SKIPPED, f"{data.dataset} isn't there: training fetches it first")
    scanned = clock() - started
    count = len(source)
    sample = random.Random(0).sample(range(count), min(_SAMPLE, count))
    deadline = clock() + _SAMPLE_SECONDS
    sizes: list[int] = []
    bad: list[str] = []

    def decode_one(index: int) -> None:
        if clock() > deadline:
            return
        try:
            sizes.append(_decode(source, index))
        except Exception as error:
            bad.append(first_line(error))

    started = clock()
    with ThreadPoolExecutor(max_workers=config.workers) as pool:
        list(pool.map(decode_one, sample))
    seconds = max(clock() - started, 1e-9)
    speed, megabytes = len(sizes) / seconds, sum(sizes) / 1e6 / seconds
    slow = _SLOW_IMAGES.get(device, _SLOW_IMAGES_ON_DEVICES)
    text = (
        f"{count:,} in {source.num_classes} classes, listed in {scanned:.1f} s; {len(sizes)} read "
        f"and decoded whole by {config.workers} threads: {speed:,.0f} images/s, {megabytes:,.1f} "
        f"MB/s (slow below {slow:,} images/s)"
    )
    numbers = {
        "images": count,
        "scan_seconds": scanned,
        "images_per_second": speed,
        "mb_per_second": megabytes,
    }
    if bad:
        text += f"; {len(bad)} of {len(sample)} can't be read, for example {bad[0]}"
        remedy = "repair or remove these files, or train with --on_bad_image skip"
        return CheckResult(what, BROKEN, text, remedy, numbers)
    if speed < slow:
        remedy = "put the images on a local disk, or give the job more cores"
        return CheckResult(what, SLOW, text, remedy, numbers)
    return CheckResult(what, OK, text, numbers=numbers)


def _decode(source: Source, index: int) -> int:
    """Read an image and decode it with Pillow; returns the bytes that were read."""
    import io

    from PIL import Image

    data, _ = source[index]
    if source.encoded:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    return data.nbytes
