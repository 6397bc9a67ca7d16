"""The doctor's main, told that there are two devices; for tests/device/on_device.py.

The doctor asks for devices in another process, in which MindSpore isn't changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindcv_ghost.cluster import run_script
from mindcv_ghost.doctor import __main__ as doctor
from mindcv_ghost.doctor import devices

FOUND = {"version": "2.8.0", "devices": {"Ascend": [["fake", 0]] * 2, "GPU": [["fake", 0]] * 2}}
devices.ask_mindspore = lambda: (FOUND, "")

if __name__ == "__main__":
    sys.exit(run_script(doctor.main, sys.argv[1:]))
