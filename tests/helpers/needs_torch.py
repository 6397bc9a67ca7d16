"""Import PyTorch and timm for tests that compare with them."""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

import pytest

# timm imports torchvision. Its wheel from PyPI isn't built for PyTorch's CPU build, so the import
# fails ("operator torchvision::nms does not exist") unless these operators are declared. None of
# them is called.
_OPERATORS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
_OPERATORS += ("deform_conv2d", "_roi_align_backward", "_roi_pool_backward")
_OPERATORS += ("_ps_roi_align_backward", "_ps_roi_pool_backward", "_deform_conv2d_backward")


def torch_and_timm() -> tuple[ModuleType, ModuleType]:
    """Return both modules, or skip the test. With MINDCV_GHOST_NEEDS_TORCH=1 fail instead."""
    try:
        return _imported()
    except ImportError as problem:
        if os.environ.get("MINDCV_GHOST_NEEDS_TORCH") == "1":
            raise
        pytest.skip(f"needs PyTorch and timm (make test-parity installs them): {problem}")


@cache
def _imported() -> tuple[ModuleType, ModuleType]:
    import torch

    global _library  # deleting it would delete the declarations
    try:
        _library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            _library.define(f"{name}(Tensor a, Tensor b) -> Tensor")
    except RuntimeError:
        pass  # this torchvision has declared them itself
    import timm

    torch.set_num_threads(2)
    return torch, timm
