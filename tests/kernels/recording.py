"""Calls of operators, written down for ``replay.cc``."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindcv_ghost.kernels import self_test
from mindcv_ghost.kernels.calls import call

__all__ = ["record_self_test"]


def record_self_test(library, path: Path, monkeypatch) -> int:
    """Run the self-test on a library and write its calls with what they put out.

    Args:
        library: as ``ctypes`` loaded it; it has to pass.
        path: the recording.
        monkeypatch: pytest's.

    Returns:
        How many calls there were.
    """
    records: list[bytes] = []

    def recorded(library, operator: str, inputs: Sequence, shapes: Sequence) -> list[np.ndarray]:
        outputs = call(library, operator, inputs, shapes)
        name = operator.encode()
        parts = [struct.pack("=I", len(name)), name]
        parts.append(struct.pack("=II", len(inputs), len(outputs)))
        for values in (*inputs, *outputs):
            array = np.ascontiguousarray(values, np.float32)
            sides = np.shape(values)
            parts.append(struct.pack(f"=I{len(sides)}q", len(sides), *sides) + array.tobytes())
        records.append(b"".join(parts))
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(self_test, "call", recorded)
        self_test.check_library(library)
    path.write_bytes(b"".join(records))
    return len(records)
