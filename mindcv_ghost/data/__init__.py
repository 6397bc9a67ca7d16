"""Images from disk to batches: sources, the order of images, transforms, loaders.

Only ``loader`` and what it is made of import MindSpore, and only when it is asked for, so that the
index arithmetic, the file checks and the ``imagenet`` command start in milliseconds.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "ArraySource": "arrays",
    "Augment": "transforms",
    "Batches": "batches",
    "EvalLoader": "loader",
    "FolderSource": "image_folder",
    "Source": "sources",
    "TrainLoader": "loader",
    "calibration_batches": "calibration",
    "check_splits": "sources",
    "class_names": "sources",
    "fingerprint": "sources",
    "open_source": "sources",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
