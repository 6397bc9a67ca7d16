"""Images from disk to batches: sources, the order of images, transforms, loaders.

Only ``loader`` and what it is made of import MindSpore, and only when it is asked for, so that the
index arithmetic, the file checks and the ``imagenet`` command start in milliseconds.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "ArraySource": "sets.arrays",
    "Augment": "transforms.transforms",
    "Batches": "pipeline.batches",
    "EvalLoader": "pipeline.loader",
    "FolderSource": "sets.image_folder",
    "Source": "sets.sources",
    "TrainLoader": "pipeline.loader",
    "calibration_batches": "pipeline.calibration",
    "check_splits": "sets.sources",
    "class_names": "sets.sources",
    "fingerprint": "sets.sources",
    "open_source": "sets.sources",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
