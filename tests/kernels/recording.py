"""The whole self-test of a library, and its calls written down for ``replay.cc``."""

from __future__ import annotations

import importlib
import pkgutil
import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from mindcv_ghost import kernels
from mindcv_ghost.kernels.calls import call

__all__ = ["check_everything", "record_self_test"]


def _self_tests() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(kernels.__path__)]
    found = [name for name in names if name.startswith("self_test")]
    return [importlib.import_module(f"{kernels.__name__}.{name}") for name in found]


def check_everything(library) -> None:
    """Compare every operator of a library with its formula, whichever module has it.

    Raises:
        AssertionError: if one is off.
    """
    for module in _self_tests():
        for name in module.__all__:
            if name.startswith("check_"):
                getattr(module, name)(library)


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
        for module in _self_tests():
            patch.setattr(module, "call", recorded)
        check_everything(library)
    path.write_bytes(b"".join(records))
    return len(records)
