"""Finding libjpeg-turbo, building the C++ around it, and loading both."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from pathlib import Path

import PIL

from mindcv_ghost.native_build import LibrarySpec, Unavailable, build_library

__all__ = ["FLAGS", "SOURCES", "load", "loaded", "open_library"]

SOURCES = Path(__file__).parent / "cpp"
# No contraction and no reordering: an augmentation is the same on every processor.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)


def recipe() -> LibrarySpec:
    """How the library is built."""
    return LibrarySpec(
        "images",
        SOURCES,
        FLAGS,
        "mindcv_ghost.data.native.self_test",
        (Path(__file__).parent / "self_test.py",),
        packages=("mindspore", "pillow"),
    )


def load() -> ctypes.CDLL:
    """The library, built first if this machine hasn't got it yet.

    Raises:
        Unavailable: if it can't be built here, or makes something else of an image than MindSpore.
    """
    found = loaded()
    if isinstance(found, Unavailable):
        raise found
    return found


@functools.lru_cache(maxsize=1)  # a compiler that failed isn't asked again by each loader of a run
def loaded() -> ctypes.CDLL | Unavailable:
    """As :func:`load`, but the reason is returned."""
    try:
        _jpeg_libraries()
        return open_library(build_library(recipe()))
    except Unavailable as reason:
        return reason


def open_library(path: str | Path) -> ctypes.CDLL:
    """A library by its path, with a libjpeg-turbo to decode by.

    Raises:
        Unavailable: if it can't be loaded, or no libjpeg-turbo is found that it can call.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded ({error})") from error
    pointer, integer, wide = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    library.loader_images.argtypes = [pointer, pointer, pointer, integer, pointer, pointer]
    library.loader_planes.argtypes = [pointer, pointer, pointer]
    library.loader_is_plain_jpeg.argtypes = [ctypes.c_char_p, wide]
    library.loader_keep.argtypes, library.loader_keep.restype = [wide, wide], pointer
    library.loader_forget.argtypes = [pointer]
    library.loader_kept_bytes.argtypes, library.loader_kept_bytes.restype = [pointer], wide
    for jpeg in _jpeg_libraries():
        if library.loader_use_jpeg(jpeg.encode()) == 0:
            return library
    raise Unavailable("no libjpeg-turbo is found that can be called")


def _jpeg_libraries() -> list[str]:
    """Where libjpeg-turbo may be: what Pillow's wheel brought, then the system's."""
    beside = Path(PIL.__file__).resolve().parents[1] / "pillow.libs"
    found = [str(path) for path in sorted(beside.glob("libjpeg-*.so*"))]
    system = ctypes.util.find_library("jpeg")
    if system:
        found.append(system)
    if not found:
        raise Unavailable("there is no libjpeg-turbo, which comes with Pillow's wheels")
    return found
