"""Say in a line what machine this is: a result without it means little."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

__all__ = ["describe_hardware"]


def describe_hardware(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Name the processor and the cores that this process may use.

    Args:
        cpuinfo: where Linux tells the processor's name.

    >>> describe_hardware("/nowhere").split(",")[-1].strip().split()[-1].rstrip("s")
    'core'
    """
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path(cpuinfo).read_text(), re.MULTILINE)
    except OSError:
        names = []
    name = re.sub(r"\s+", " ", names[0]).strip() if names else platform.machine() or "unknown CPU"
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        cores = os.cpu_count() or 1
    return f"{name}, {cores} core{'s' if cores != 1 else ''}"
