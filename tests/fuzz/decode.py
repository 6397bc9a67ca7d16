"""Decodes what a parent has prepared, as training and validation do; watched from outside.

Reads images from the file that it is given, each after its length in eight bytes, and says on
standard output, before each, which one is next.
"""

from __future__ import annotations

import os
import resource
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"done {count} {peak}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
