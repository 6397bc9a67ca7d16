"""The library of operators: built and tested at first use, once for a machine, then loaded."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.compat import usable_cores
from mindcv_ghost.native_build import LibrarySpec, Unavailable, build_library
from mindcv_ghost.native_prebuilt import LIBRARIES, compile_flags

__all__ = ["Library", "Unavailable", "load", "threads_for"]

SOURCES = LIBRARIES["kernels"]
# Neither -ffast-math nor -ffinite-math-only: a NaN has to stay a NaN. The compiler may reorder
# sums, but then every run sums in the same order.
FLAGS = compile_flags(SOURCES)


@dataclass(frozen=True)
class Library:
    """Operators that have passed their self-test.

    Args:
        path: the shared library.
        threads: that its operators run on.
    """

    path: Path
    threads: int


def threads_for(local_ranks: int) -> int:
    """Return the number of threads of each of several processes that share this machine's cores.

    >>> threads_for(10**6)
    1
    """
    return max(1, usable_cores() // local_ranks)


def library_spec() -> LibrarySpec:
    """Return how the operators are built and tested."""
    tests = sorted((Path(__file__).parent / "self_test").glob("*.py"))
    return LibrarySpec("kernels", SOURCES, FLAGS, "mindcv_ghost.kernels.self_test", tuple(tests))


def load(threads: int) -> Library:
    """Load the operators; build and test them first if this machine hasn't yet.

    Args:
        threads: that the operators run on.

    Raises:
        Unavailable: if they can't be built here, or fail the self-test.
    """
    path = build_library(library_spec())
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded ({error})") from error
    handle.ghost_set_threads(ctypes.c_int(threads))
    return Library(path, threads)
