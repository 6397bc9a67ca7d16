"""Decode images as training and validation do, in a process that the test watches.

Usage: decode.py FILE. The file has each image after its length in eight bytes. The number of each
image is printed before it is decoded, so that the test knows which one crashed or hung.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("GLOG_v", "4")

import numpy as np
from mindspore.dataset import vision


def main(path: str) -> None:
    decode, fused = vision.Decode(), vision.RandomCropDecodeResize(16)
    small = vision.Resize(16)
    with open(path, "rb") as file:
        count = 0
        while length := file.read(8):
            print(count, flush=True)
            image = np.frombuffer(file.read(int.from_bytes(length, "little")), np.uint8)
            assert small(decode(image)).shape[2] == 3
            assert fused(image).shape == (16, 16, 3)
            count += 1
    print(f"done {count} {peak_megabytes()}", flush=True)


def peak_megabytes() -> int:
    """This program's peak memory. ``ru_maxrss`` would have the test's own, from before ``exec``."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main(sys.argv[1])
