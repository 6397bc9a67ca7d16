"""The self-test's calls of a library, recorded for ``replay.cc``."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindcv_ghost.kernels.self_test import checks
from mindcv_ghost.kernels.self_test.call import call

__all__ = ["record_self_test"]


def record_self_test(library, path: Path, monkeypatch) -> int:
    """Run the self-test on a library and write its calls with their outputs.

    Args:
        library: as ``ctypes`` loaded it; it has to pass.
        path: the recording.
        monkeypatch: pytest's.

    Returns:
        How many calls there were.
    """
    records: list[bytes] = []

    def recorded(
        library, operator: str, inputs: Sequence, shapes: Sequence, written: int = 0
    ) -> list[np.ndarray]:
        outputs = call(library, operator, inputs, shapes, written)
        name = operator.encode()
        parts = [struct.pack("=I", len(name)), name]
        parts.append(struct.pack("=III", len(inputs), len(shapes), written))
        for values in (*inputs, *outputs):
            array = np.ascontiguousarray(values, np.float32)
            sides = np.shape(values)
            parts.append(struct.pack(f"=I{len(sides)}q", len(sides), *sides) + array.tobytes())
        records.append(b"".join(parts))
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(checks, "call", recorded)
        checks.check_library(library)
    path.write_bytes(b"".join(records))
    return len(records)
