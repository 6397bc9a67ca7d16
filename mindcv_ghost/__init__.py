"""Ghost networks for MindCV: importing this package registers them.

After ``import mindcv_ghost`` and ``import mindcv``, in either order,
``mindcv.create_model("ghost_resnet50")`` works. Importing this package loads neither MindSpore nor
MindCV: both take seconds, and a launcher has to set the environment before MindSpore is loaded. The
models register when MindCV is imported, and the names below are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mindcv_ghost.registry import register_zoo
from mindcv_ghost.version import __version__

if TYPE_CHECKING:
    from mindcv import list_models

    from mindcv_ghost.inference.classifier import Classifier
    from mindcv_ghost.kernels.acceleration import accelerate, decelerate
    from mindcv_ghost.layers.ghost_module import GhostModule, split_channels
    from mindcv_ghost.registry import create_model

__all__ = [
    "Classifier",
    "GhostModule",
    "__version__",
    "accelerate",
    "create_model",
    "decelerate",
    "list_models",
    "split_channels",
]

_HOME_OF = {
    "Classifier": "mindcv_ghost.inference.classifier",
    "GhostModule": "mindcv_ghost.layers.ghost_module",
    "accelerate": "mindcv_ghost.kernels.acceleration",
    "decelerate": "mindcv_ghost.kernels.acceleration",
    "split_channels": "mindcv_ghost.layers.ghost_module",
    # MindCV's, except that a checkpoint gives every weight or an error.
    "create_model": "mindcv_ghost.registry",
    "list_models": "mindcv",  # so that one import is enough
}

register_zoo()


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
