"""Building the operators at first use, once for a machine, and loading them."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.native_build import Recipe, Unavailable, built

__all__ = ["Library", "Unavailable", "load", "threads_for"]

SOURCES = Path(__file__).parent / "cpp"
# Neither -ffast-math nor -ffinite-math-only: a NaN has to stay one. Sums may be reordered, but the
# order is fixed when the compiler has done its work.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
    "-ffp-contract=fast",
)


@dataclass(frozen=True)
class Library:
    """Operators that have passed their self-test.

    Args:
        path: the shared library.
        threads: threads that its operators run on.
        has_onednn: whether matrix products are oneDNN's; else they are the library's own, and
            MindSpore's convolutions are faster.
    """

    path: Path
    threads: int
    has_onednn: bool


def threads_for(local_ranks: int) -> int:
    """Threads of each of so many processes that share this machine's cores.

    >>> threads_for(10**6)
    1
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // local_ranks)


def recipe() -> Recipe:
    """How the operators are built."""
    test_file = Path(__file__).parent / "self_test.py"
    return Recipe("kernels", SOURCES, FLAGS, "mindcv_ghost.kernels.self_test", test_file)


def load(threads: int) -> Library:
    """Load the operators, built first if this machine hasn't got them yet.

    Args:
        threads: threads that they run on.

    Raises:
        Unavailable: if they can't be built here, or compute something wrong.
    """
    path = built(recipe())
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded ({error})") from error
    handle.ghost_set_threads(ctypes.c_int(threads))
    has_onednn = handle.ghost_use_onednn(_onednn().encode()) == 1
    return Library(path, threads, has_onednn)


def _onednn() -> str:
    """The oneDNN that MindSpore has loaded; only where its products are compiled for the CPU."""
    module = sys.modules.get("mindspore")
    if module is None or platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    found = sorted((Path(module.__file__).parent / "lib").glob("libdnnl.so*"))
    return str(found[0]) if found else ""
