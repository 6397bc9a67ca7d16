"""Runs a script on a fake device: python tests/device/on_device.py Ascend train.py ARGS...

MindSpore is changed only in this process, when it is imported: a rank's supervisor has been forked
before, and the scheduler is another program. Settings: ``fake_device/settings.py``. With CPU as the
device MindSpore isn't changed, and the tests' tiny network is registered.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path


def answer_device_query(device: str) -> None:
    """Answer for the child process in which the doctor lists devices: it isn't on a fake device."""
    from fake_device.settings import Settings

    from mindcv_ghost.doctor import devices

    count = Settings.read(device, os.environ).devices or 0
    answer = {"version": "2.8.0", "devices": {device: count * [["fake", 32 * 10**9]]}}
    devices.query_mindspore = lambda: (answer, "")


def main() -> None:
    device, script, *arguments = sys.argv[1:]
    # As if the script had been started directly.
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    here = Path(__file__).resolve().parent
    sys.path += [str(here), str(here.parent / "helpers")]

    from fake_device.import_hook import after_import
    from fake_device.install import install, record_end
    from fake_device.settings import Settings
    from tiny_network import register_tiny

    # msrun also runs the script as its scheduler, which has no device.
    if device != "CPU" and os.environ.get("MS_ROLE") != "MS_SCHED":
        after_import("mindspore", lambda: install(Settings.read(device, os.environ)))
        after_import("mindcv_ghost.engine.trainer", record_end)
        after_import("mindcv_ghost.doctor.devices", lambda: answer_device_query(device))
    after_import("mindcv", lambda: register_tiny("device_tiny"))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
