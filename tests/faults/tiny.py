"""Runs train.py with a network that compiles in a second, and slows it down if asked.

STEP_SECONDS: pause before each batch. WRITE_SECONDS: pause before each 32 KB that a save writes.
"""

from __future__ import annotations

import os
import sys
import time

from mindcv_ghost.launch.script import run_script
from mindcv_ghost.storage import atomic_file
from tests.helpers.tiny_network import register_tiny


def slow_down_writing(seconds: float) -> None:
    def write(file, chunk):
        time.sleep(seconds)
        return file.write(chunk[:32768])

    atomic_file._write = write


def slow_down_steps(seconds: float) -> None:
    from mindcv_ghost.engine.epoch import EpochRun

    ask = EpochRun._request

    def slow(self):
        time.sleep(seconds)
        ask(self)

    EpochRun._request = slow


def main(argv: list[str]) -> int:
    from mindcv_ghost.commands import train

    write, step = os.environ.get("WRITE_SECONDS"), os.environ.get("STEP_SECONDS")
    if write:
        slow_down_writing(float(write))
    if step:
        slow_down_steps(float(step))
    register_tiny("tiny")
    register_tiny("tiny_28", side=28)
    return train.main(argv)


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
