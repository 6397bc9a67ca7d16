"""Describe the machine in one line, to be kept with a measured result."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from mindcv_ghost.compat import usable_cores

__all__ = ["describe_hardware"]


def describe_hardware(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Return the processor's name and the number of cores that this process may use.

    Args:
        cpuinfo: the file in which Linux gives the processor's name.

    >>> describe_hardware("/nowhere").split(",")[-1].strip().split()[-1].rstrip("s")
    'core'
    """
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path(cpuinfo).read_text(), re.MULTILINE)
    except OSError:
        names = []
    name = re.sub(r"\s+", " ", names[0]).strip() if names else platform.machine() or "unknown CPU"
    cores = usable_cores()
    return f"{name}, {cores} core{'s' if cores != 1 else ''}"
