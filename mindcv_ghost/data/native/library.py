"""Find libjpeg-turbo, build the C++ around it, and load both."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from pathlib import Path

import PIL

from mindcv_ghost.native_build import LibrarySpec, Unavailable, build_library
from mindcv_ghost.native_prebuilt import LIBRARIES, compile_flags

__all__ = ["FLAGS", "SOURCES", "jpeg_libraries", "load", "loaded", "open_library"]

SOURCES = LIBRARIES["images"]
# No fused multiply-add and no reordering: pixels are the same on every processor.
FLAGS = compile_flags(SOURCES)


def library_spec() -> LibrarySpec:
    """Say how the library is built."""
    return LibrarySpec(
        name="images",
        sources=SOURCES,
        flags=FLAGS,
        self_test="mindcv_ghost.data.native.self_test",
        test_files=(Path(__file__).parent / "self_test.py",),
        packages=("mindspore", "pillow"),
    )


def load() -> ctypes.CDLL:
    """Load the library; build it first if this machine hasn't got it yet.

    Raises:
        Unavailable: if it can't be built here, or its pixels differ from MindSpore's.
    """
    found = loaded()
    if isinstance(found, Unavailable):
        raise found
    return found


@functools.lru_cache(maxsize=1)  # so that a run's loaders don't repeat a build that failed
def loaded() -> ctypes.CDLL | Unavailable:
    """As :func:`load`, but return the exception instead of raising it."""
    try:
        jpeg_libraries()
        return open_library(build_library(library_spec()))
    except Unavailable as reason:
        return reason


def open_library(path: str | Path) -> ctypes.CDLL:
    """Load a library by its path and give it a libjpeg-turbo.

    Raises:
        Unavailable: if it can't be loaded, or no libjpeg-turbo is found that it can call.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded ({error})") from error
    pointer, integer, wide = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    library.loader_images.argtypes = [pointer, pointer, pointer, integer, pointer, pointer]
    library.loader_arrays.argtypes = [pointer, pointer, pointer, integer, pointer, pointer]
    library.loader_normalize.argtypes = [pointer, pointer, pointer]
    library.loader_is_plain_jpeg.argtypes = [ctypes.c_char_p, wide]
    library.loader_new_cache.argtypes, library.loader_new_cache.restype = [wide, wide], pointer
    library.loader_delete_cache.argtypes = [pointer]
    library.loader_cache_bytes.argtypes, library.loader_cache_bytes.restype = [pointer], wide
    for jpeg in jpeg_libraries():
        if library.loader_use_jpeg(jpeg.encode()) == 0:
            return library
    raise Unavailable("no libjpeg-turbo is found that can be called")


def jpeg_libraries() -> list[str]:
    """List candidates for libjpeg-turbo: the one in Pillow's wheel, then the system's.

    Raises:
        Unavailable: if there are none.
    """
    beside = Path(PIL.__file__).resolve().parents[1] / "pillow.libs"
    found = [str(path) for path in sorted(beside.glob("libjpeg-*.so*"))]
    system = ctypes.util.find_library("jpeg")
    if system:
        found.append(system)
    if not found:
        raise Unavailable("there is no libjpeg-turbo, which comes with Pillow's wheels")
    return found
