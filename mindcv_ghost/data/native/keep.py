"""Decoded images of a small set stay in memory."""

from __future__ import annotations

import weakref

import numpy as np
from PIL import Image

from mindcv_ghost.data.native.library import load
from mindcv_ghost.data.sets.image_folder import FolderSource

__all__ = ["Keep", "keep_for"]

_LOOKED_AT = 32


class Keep:
    """Memory for decoded images, which are then not decoded again; several threads may use it.

    Args:
        images: of the set.
        megabytes: that may be kept; what doesn't fit any more is decoded each time.
    """

    def __init__(self, images: int, megabytes: int):
        library = load()
        self.handle = library.loader_keep(images, megabytes * 10**6)
        if self.handle:
            weakref.finalize(self, library.loader_forget, self.handle)

    @property
    def bytes(self) -> int:
        """Bytes that are kept now."""
        return load().loader_kept_bytes(self.handle) if self.handle else 0


def keep_for(source: FolderSource, megabytes: int) -> Keep | None:
    """Memory for the whole set, if its pixels fit into so many megabytes; else None.

    A part isn't kept: it would cost as much and save little. Sizes are those of a few images.
    """
    if not (megabytes and len(source)):
        return None
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(int):
        try:
            with Image.open(source.name_of(int(index))) as image:
                sizes.append(3 * image.width * image.height)
        except Exception:  # noqa: S112 (what is wrong with it is told when it is read)
            continue
    if not sizes or np.mean(sizes) * len(source) > megabytes * 10**6:
        return None
    return Keep(len(source), megabytes)
