"""PyTorch weights in and out: ``python -m mindcv_ghost.convert SOURCE OUT --model NAME``."""

from mindcv_ghost.convert.conversion import ConversionReport, to_mindspore, to_torch
from mindcv_ghost.convert.names import DIALECTS, torch_names

__all__ = ["DIALECTS", "ConversionReport", "to_mindspore", "to_torch", "torch_names"]
