"""Describe the machine in one line, to be kept with a measured result."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from mindcv_ghost.compat import usable_cores
from mindcv_ghost.native_prebuilt import processor_flags

__all__ = ["describe_hardware"]

# By Linux's name, the widest first.
_LEVELS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse4_2": "SSE 4.2"}


def describe_hardware(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Return the processor's name, the instructions that decide its speed, and the cores.

    A virtual machine's processor often has its family's name alone. The cores are those that this
    process may use.

    Args:
        cpuinfo: the file in which Linux describes the processors.

    >>> describe_hardware("/nowhere").split(",")[-1].strip().split()[-1].rstrip("s")
    'core'
    """
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path(cpuinfo).read_text(), re.MULTILINE)
    except OSError:
        names = []
    name = re.sub(r"\s+", " ", names[0]).strip() if names else platform.machine() or "unknown CPU"
    flags = processor_flags(cpuinfo)
    level = next((level for flag, level in _LEVELS.items() if flag in flags), "")
    cores = usable_cores()
    return ", ".join(filter(None, (name, level, f"{cores} core{'s' if cores != 1 else ''}")))
