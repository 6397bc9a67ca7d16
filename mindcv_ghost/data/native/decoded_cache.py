"""Keep the decoded images of a small set in memory."""

from __future__ import annotations

import weakref

import numpy as np
from PIL import Image

from mindcv_ghost.data.native.library import load
from mindcv_ghost.data.sets.image_folder import FolderSource

__all__ = ["DecodedCache", "cache_for"]

_SAMPLE = 32  # images whose sizes are looked at


class DecodedCache:
    """Memory for decoded images, so that each is decoded once; threads may share it.

    Nothing is evicted: once the memory is full, further images are decoded each time.

    Args:
        images: number of images in the set.
        megabytes: of memory.

    Raises:
        MemoryError: if there is no memory for the list of images.
    """

    def __init__(self, images: int, megabytes: int) -> None:
        library = load()
        self.handle = library.loader_new_cache(images, megabytes * 10**6)
        if not self.handle:
            raise MemoryError(f"no memory for a list of {images:,} images")
        weakref.finalize(self, library.loader_delete_cache, self.handle)

    @property
    def bytes(self) -> int:
        """Bytes in use."""
        return load().loader_cache_bytes(self.handle)


def cache_for(source: FolderSource, megabytes: int) -> DecodedCache | None:
    """Make a cache for the whole set if its pixels fit into the memory; else return None.

    Caching a part of a large set would cost as much memory and save little. The size of the set is
    estimated from 32 images.
    """
    if not (megabytes and len(source)):
        return None
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(_SAMPLE, len(source))).astype(int):
        try:
            with Image.open(source.name_of(int(index))) as image:
                sizes.append(3 * image.width * image.height)
        except Exception:  # a bad image is reported when it is read
            continue
    if not sizes or np.mean(sizes) * len(source) > megabytes * 10**6:
        return None
    try:
        return DecodedCache(len(source), megabytes)
    except MemoryError:
        return None
