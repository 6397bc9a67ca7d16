"""train.py with a network that compiles in a second, and hands that slow it down.

STEP_SECONDS: rest before each batch. WRITE_SECONDS: rest after each 32 KB that a save writes.
"""

from __future__ import annotations

import os
import sys
import time

from mindcv_ghost.cluster import run_script
from mindcv_ghost.report import files


def slow_down_writing(seconds: float) -> None:
    def write(file, piece):
        time.sleep(seconds)
        return file.write(piece[:32768])

    files._write = write


def slow_down_steps(seconds: float) -> None:
    from mindcv_ghost.engine.epoch import EpochRun

    ask = EpochRun._ask

    def slow(self):
        time.sleep(seconds)
        ask(self)

    EpochRun._ask = slow


def register_tiny() -> None:
    from mindcv.models.registry import register_model
    from mindspore import nn

    from mindcv_ghost.layers import GhostModule

    class Tiny(nn.Cell):
        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            self.features = nn.SequentialCell(
                GhostModule(in_channels, 16, kernel_size=3, stride=2), nn.MaxPool2d(2, 2)
            )
            self.classifier = nn.Dense(16 * 8 * 8, num_classes)

        def construct(self, x):
            return self.classifier(self.features(x).flatten(start_dim=1))

    @register_model
    def tiny(pretrained=False, num_classes=1000, in_channels=3, **kwargs):
        return Tiny(num_classes, in_channels)


def main(argv: list[str]) -> int:
    import train

    write, step = os.environ.get("WRITE_SECONDS"), os.environ.get("STEP_SECONDS")
    if write:
        slow_down_writing(float(write))
    if step:
        slow_down_steps(float(step))
    register_tiny()
    return train.main(argv)


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
