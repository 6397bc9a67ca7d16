"""Mutated images: files that pass the check never crash or hang MindSpore's decoder."""

from __future__ import annotations

import random
import selectors
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindcv_ghost.data.sets.image_file import BadImage, prepare

from .images import bases, crafted, mutated
from .outcome import Tally

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

WORKER = Path(__file__).with_name("decode.py")
BATCH = 2000  # images a process, because MindSpore takes 3 s to load
STARTING, DECODING = 120, 20  # seconds without output; the largest image takes two


def decode_in_subprocess(images: list[bytes], path: Path) -> tuple[int, str]:
    """Decode images in a process of its own.

    Returns:
        Peak memory in MB, and a description of the crash or hang, or an empty string.
    """
    with open(path, "wb") as file:
        for image in images:
            file.write(len(image).to_bytes(8, "little") + image)
    with (
        subprocess.Popen(
            [sys.executable, str(WORKER), str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        ) as process,
        selectors.DefaultSelector() as ready,
    ):
        ready.register(process.stdout, selectors.EVENT_READ)
        output, timeout = b"", STARTING
        while ready.select(timeout):
            chunk = process.stdout.read(65536)
            if not chunk:
                break
            output, timeout = output + chunk, DECODING
        else:
            process.kill()
            process.wait()
            return 0, f"HANG at {last_image(output, images)!r}"
        status = process.wait()
    if status:
        return 0, f"status {status} at {last_image(output, images)!r}"
    _, count, peak = output.split()[-3:]
    assert int(count) == len(images)
    return int(peak), ""


def last_image(output: bytes, images: list[bytes]) -> bytes:
    numbers = [int(word) for word in output.split() if word.isdigit()]
    return images[numbers[-1]] if numbers else b""


def fuzz(tally: Tally, count: int, folder: Path) -> int:
    """Check ``count`` inputs and decode those that pass; return the decoder's peak memory in MB."""
    draw, originals = random.Random(13), bases()
    passed, peak, start = [], 0, time.monotonic()
    inputs = originals + crafted()

    def decode() -> None:
        nonlocal peak
        used, problem = decode_in_subprocess(passed, folder / "images")
        peak = max(peak, used)
        if problem:
            (tally.hangs if problem.startswith("HANG") else tally.tracebacks).append(problem)
        passed.clear()

    for number in range(count):
        if number < len(inputs):
            data = inputs[number]
        else:
            data = mutated(draw.choice(originals), originals, draw)
        prepared = tally.run(prepare, data)
        if prepared is not None:
            passed.append(prepared.tobytes())
        if len(passed) == BATCH:
            decode()
    decode()
    assert time.monotonic() - start < 3600
    return peak


@pytest.mark.parametrize(
    "count", [600, pytest.param(12_000, marks=[pytest.mark.fuzz, pytest.mark.timeout(3600)])]
)
def test_mutated_images_are_decoded_or_refused_without_harm(count, tmp_path, capsys):
    tally = Tally(allowed=(BadImage,))
    peak = fuzz(tally, count, tmp_path)
    tally.report(capsys, "images", f", the decoder's peak {peak:,} MB")
    assert tally.inputs == count
    assert count // 20 < tally.taken < count
    assert peak < 3000
