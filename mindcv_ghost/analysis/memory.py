"""Which tensors are alive at once while a network runs."""

from __future__ import annotations

import weakref
from typing import Any

from mindspore import Tensor

__all__ = ["LiveTensors"]


class LiveTensors:
    """Adds up the bytes of the tensors that it has seen and that nobody has dropped yet.

    A network that runs eagerly drops a tensor when its last reader is done, as a memory planner
    would. Seen are tensors that go into or come out of a cell; what an operation inside a cell
    makes and drops again isn't.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.peak_bytes = 0
        self._seen: set[int] = set()

    def see(self, *values: Any) -> None:
        """Count tensors, and tensors in tuples, until they are dropped."""
        for value in values:
            if isinstance(value, (tuple, list)):
                self.see(*value)
            elif isinstance(value, Tensor) and id(value) not in self._seen:
                size = value.size * value.itemsize
                self._seen.add(id(value))
                self.bytes += size
                weakref.finalize(value, self._forget, id(value), size)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _forget(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.bytes -= size
