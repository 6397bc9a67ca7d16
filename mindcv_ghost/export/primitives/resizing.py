"""Resizing of feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindcv_ghost.export.graph import Varying
from mindcv_ghost.export.primitives.table import translates
from mindcv_ghost.export.translation import Names, Step


@translates("ResizeNearestNeighborV2", "ResizeNearestNeighbor")
def _resize_nearest(step: Step) -> Names:
    """Arguments of V2: x, size, align_corners, half_pixel_centers; the other has attributes.

    Without either, the source of pixel i is floor(i * scale), also where half pixels are asked for:
    floor((i + 0.5) * scale).
    """
    corners, half = _corners_and_half(step)
    if corners:
        return _resize(step, mode="nearest", nearest="round_prefer_ceil", transform="align_corners")
    transform = "half_pixel_symmetric" if half else "asymmetric"
    return _resize(step, mode="nearest", nearest="floor", transform=transform)


@translates("ResizeBilinearV2", "ResizeBilinear")
def _resize_bilinear(step: Step) -> Names:
    """Arguments: x, size, align_corners, half_pixel_centers."""
    corners, half = _corners_and_half(step)
    transform = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    return _resize(step, mode="linear", transform=transform)


def _corners_and_half(step: Step) -> tuple[bool, bool]:
    given = step.attributes
    corners = step.argument(2, given.get("align_corners", False))
    half = step.argument(3, given.get("half_pixel_centers", False))
    return bool(corners), bool(half)


def _resize(step: Step, mode: str, transform: str, nearest: str | None = None) -> Names:
    size = step.result.shape[2:]
    source = step.shape(0)[2:]
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": transform,
        "nearest_mode": nearest,
    }
    ratios = [_ratio(*numbers) for numbers in zip(size, source)]
    if None not in ratios:  # factors are what most runtimes are fastest with
        factors = np.array([1, 1, *ratios], np.float32)
        return step.emit("Resize", step.tensor(0), "", factors, **attributes)
    return step.emit("Resize", step.tensor(0), "", "", step.vector(size), axes=[2, 3], **attributes)


def _ratio(size: Any, source: Any) -> int | None:
    """The factor, if it is a whole one and doesn't depend on the input's size."""
    if isinstance(size, Varying) or isinstance(source, Varying) or size % source:
        return None
    return size // source
