"""Building the operators at first use, once for a machine, and loading them."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.native_build import LibrarySpec, Unavailable, build_library

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
    """

    path: Path
    threads: int


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


def recipe() -> LibrarySpec:
    """How the operators are built."""
    tests = tuple(
        Path(__file__).parent / f"{name}.py" for name in ("self_test", "self_test_layers")
    )
    return LibrarySpec("kernels", SOURCES, FLAGS, "mindcv_ghost.kernels.self_test", tests)


def load(threads: int) -> Library:
    """Load the operators, built first if this machine hasn't got them yet.

    Args:
        threads: threads that they run on.

    Raises:
        Unavailable: if they can't be built here, or compute something wrong.
    """
    path = build_library(recipe())
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded ({error})") from error
    handle.ghost_set_threads(ctypes.c_int(threads))
    return Library(path, threads)
