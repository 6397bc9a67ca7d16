"""From a trained network to files that run elsewhere.

In: a network with its weights (a cell). Out: .onnx and .mindir files. The way to ONNX:
MindSpore compiles the network (``mindir.py`` reads its graph) for one or several sizes of input
(``traces.py`` finds out what depends on them), a table translates its primitives (``primitives/``,
``translation.py``), and ``optimisation/`` makes it small. Start with ``onnx_file.py``.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from mindcv_ghost.errors import UserError

# Before onnx: MindSpore 2.8 can't be imported after it ("Descriptors cannot be created directly",
# protobuf 4 and later). Imported first, it chooses protobuf's Python implementation, which reads
# MindSpore's files and onnx's.
with contextlib.suppress(ImportError):
    import mindspore  # noqa: F401

__all__ = ["FixedSize", "UntranslatablePrimitive", "build_onnx", "to_onnx"]

_HOME_OF = {
    "FixedSize": "mindcv_ghost.export.traces",
    "UntranslatablePrimitive": "mindcv_ghost.export.translation",
    "build_onnx": "mindcv_ghost.export.onnx_file",
    "to_onnx": "mindcv_ghost.export.onnx_file",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): MindSpore isn't needed for all of this room."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise UserError(
            "the export to ONNX needs the package onnx: pip install 'mindcv-ghost[export]'"
        ) from error
    globals()[name] = value
    return value
