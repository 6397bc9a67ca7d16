"""From a float32 network to int8: ONNX Runtime's static quantisation, judged by accuracy.

In: an ONNX model in memory, calibration images, and a function that measures top-1. Out: a
:class:`QuantisedModel`, or an error if too much accuracy is lost. The way: ``scheme.py`` chooses
the integer types for runtime and processor, ``calibration.py`` measures the ranges of all tensors,
``layers.py`` names the layers and their kinds, ``insertion.py`` inserts the quantisation (QDQ),
``sensitivity.py`` finds out what each layer costs, ``search.py`` decides. Start with ``search.py``.

Nothing here needs MindSpore; onnx and ONNX Runtime are enough.
"""

from __future__ import annotations

from mindcv_ghost.export.quantisation.report import (
    LayerCost,
    QuantisationError,
    QuantisedModel,
    Trial,
    write_layer_report,
)
from mindcv_ghost.export.quantisation.scheme import Scheme, choose_scheme
from mindcv_ghost.export.quantisation.search import quantise

__all__ = [
    "LayerCost",
    "QuantisationError",
    "QuantisedModel",
    "Scheme",
    "Trial",
    "choose_scheme",
    "quantise",
    "write_layer_report",
]
