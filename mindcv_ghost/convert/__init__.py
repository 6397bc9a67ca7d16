"""Convert weights of Ghost networks between PyTorch and MindSpore.

``python -m mindcv_ghost.convert SOURCE OUT --model NAME`` reads a ``.safetensors`` or ``.pth`` file
and writes a ``.ckpt``, or the other way round. The conversion is strict and bit-exact: it accounts
for every array or writes nothing. Start reading with ``__main__`` (the command). ``conversion``
renames arrays, ``names`` has the rules, ``torch_file`` reads and writes PyTorch's files.
"""

from mindcv_ghost.convert.conversion import ConversionReport, to_mindspore, to_torch
from mindcv_ghost.convert.names import DIALECTS, torch_names

__all__ = ["DIALECTS", "ConversionReport", "to_mindspore", "to_torch", "torch_names"]
