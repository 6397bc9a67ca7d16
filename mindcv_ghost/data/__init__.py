"""From images on disk to batches.

In: a data set's name and folder, the ``augment`` settings, this rank's place. Out: batches of image
and label. Four rooms, each of which imports only those before it: ``sets/`` (which images there
are), ``transforms/`` (MindCV's transforms, made repeatable), ``native/`` (this package's C++ from
file to pixels) and ``pipeline/`` (order, batches, loaders). Start with ``pipeline/loader.py``.
``imagenet.py`` is a command that sorts and checks ImageNet.

The public names below are imported when they are first used: the index arithmetic, the file checks
and the ``imagenet`` command don't need MindSpore, and start in milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers, which don't run __getattr__
    from mindcv_ghost.data.pipeline.backend import Batches
    from mindcv_ghost.data.pipeline.calibration import calibration_batches
    from mindcv_ghost.data.pipeline.loader import EvalLoader, TrainLoader
    from mindcv_ghost.data.sets.arrays import ArraySource
    from mindcv_ghost.data.sets.image_folder import FolderSource
    from mindcv_ghost.data.sets.sources import (
        Source,
        check_splits,
        class_names,
        fingerprint,
        open_source,
    )
    from mindcv_ghost.data.transforms.settings import Augment

__all__ = [
    "ArraySource",
    "Augment",
    "Batches",
    "EvalLoader",
    "FolderSource",
    "Source",
    "TrainLoader",
    "calibration_batches",
    "check_splits",
    "class_names",
    "fingerprint",
    "open_source",
]

_HOMES = {
    "ArraySource": "sets.arrays",
    "Augment": "transforms.settings",
    "Batches": "pipeline.backend",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
