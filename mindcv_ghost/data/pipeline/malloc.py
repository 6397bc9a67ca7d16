"""Make the C library reuse freed memory instead of fetching it from the kernel for every batch."""

from __future__ import annotations

import ctypes
import functools
import platform

__all__ = ["reuse_large_blocks"]

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
_LARGEST = 1 << 28


@functools.lru_cache(maxsize=1)
def reuse_large_blocks() -> bool:
    """Make malloc keep freed blocks of up to 256 MB for reuse.

    By default glibc maps every block above 32 MB anew and unmaps it when it is freed. A batch of 64
    images of 224x224 has 38 MB: each costs 9,400 page faults, 0.35 ms of a core an image, where
    decoding takes 1.4.

    Returns:
        Whether the C library accepted the settings; only glibc does.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2 * _LARGEST - 1))
