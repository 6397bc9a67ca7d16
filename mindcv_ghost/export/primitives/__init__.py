"""The table of MindSpore's primitives: for each one the ONNX nodes that compute the same.

Importing this package imports its files, which fill :data:`TABLE`. Where a primitive is a node of
ONNX, its row says so (``elementwise.py``); elsewhere a rule, a function, adds the nodes. A file is
one kind of primitives. What a primitive computes exactly, and where that is from, stands with it.
"""

from __future__ import annotations

from mindcv_ghost.export.primitives import (
    convolutions,
    elementwise,
    linear,
    normalisation,
    pooling,
    reductions,
    resizing,
    shapes,
)
from mindcv_ghost.export.primitives.table import TABLE

__all__ = ["TABLE"]

del convolutions, elementwise, linear, normalisation, pooling, reductions, resizing, shapes
