"""Ghost networks for MindCV: importing this package registers them.

``import mindcv_ghost`` before or after ``import mindcv``; then
``mindcv.create_model("ghost_resnet50")`` works. The import itself loads neither MindSpore nor
MindCV (both take seconds, and a launcher has to set the environment before MindSpore is loaded):
the models register as soon as MindCV is imported, and the names below are fetched on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mindcv_ghost.registry import register_zoo
from mindcv_ghost.version import __version__

if TYPE_CHECKING:
    from mindcv import create_model, list_models

    from mindcv_ghost.layers.ghost_module import GhostModule, split_channels

__all__ = ["GhostModule", "__version__", "create_model", "list_models", "split_channels"]

_HOME_OF = {
    "GhostModule": "mindcv_ghost.layers.ghost_module",
    "split_channels": "mindcv_ghost.layers.ghost_module",
    # MindCV's own functions, offered here so that one import is enough.
    "create_model": "mindcv",
    "list_models": "mindcv",
}

register_zoo()


def __getattr__(name: str) -> Any:
    """Fetch a public name on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
