"""The native operators of this tree."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from mindcv_ghost.kernels import library


@pytest.fixture(scope="session")
def built() -> library.Library:
    """The operators of this tree, on two threads."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("there is no C++ compiler")
    return library.load(threads=2)


@pytest.fixture
def handle(built):
    """The library as ctypes sees it; whatever a test does to its threads is undone."""
    handle = ctypes.CDLL(str(built.path))
    yield handle
    handle.ghost_set_threads(ctypes.c_int(2))
