"""Track which tensors are alive at the same time while a network runs."""

from __future__ import annotations

import weakref
from typing import Any

from mindspore import Tensor

__all__ = ["LiveTensors"]


class LiveTensors:
    """Adds up the bytes of all tracked tensors that haven't been freed yet.

    A network that runs eagerly frees a tensor after its last reader has run, as a memory planner
    would. Only inputs and outputs of cells are tracked, not temporaries of the operators inside a
    cell.

    Attributes:
        bytes: of the tensors that are alive now.
        peak_bytes: the maximum of ``bytes`` so far.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.peak_bytes = 0
        self._tracked: set[int] = set()

    def track(self, *values: Any) -> None:
        """Count tensors, and tensors in tuples or lists, until they are freed."""
        for value in values:
            if isinstance(value, (tuple, list)):
                self.track(*value)
            elif isinstance(value, Tensor) and id(value) not in self._tracked:
                size = value.size * value.itemsize
                self._tracked.add(id(value))
                self.bytes += size
                weakref.finalize(value, self._forget, id(value), size)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _forget(self, identity: int, size: int) -> None:
        self._tracked.discard(identity)
        self.bytes -= size
