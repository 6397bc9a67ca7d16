"""Settings of the fake device, which tests pass in environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Settings"]

_RANK = ("OMPI_COMM_WORLD_RANK", "MS_NODE_ID", "RANK_ID")
_VISIBLE = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class Settings:
    """The host's devices, and which events are simulated.

    Args:
        device: Ascend or GPU.
        seen: the host's devices that this process sees, in its own order; None if the plug-in
            loads but no driver answers (``FAKE_DEVICE_COUNT``: the host's number of devices, or
            "none").
        chip: MindSpore's name of the Ascend (``FAKE_DEVICE_CHIP``): ascend910, whose arithmetic
            saturates, or ascend910b.
        overflow_mode: ``MS_ASCEND_CHECK_OVERFLOW_MODE``, MindSpore's own.
        overflows: calls of the training step, by rank, whose gradients overflow
            (``FAKE_DEVICE_OVERFLOWS``: "rank:call", separated by commas; calls count from 0).
        validation_overflows: whether each batch of a validation leaves an overflow in the register
            (``FAKE_DEVICE_VALIDATION_OVERFLOWS``).
        step_seconds: minimum duration of a step (``FAKE_DEVICE_STEP_SECONDS``).
        queue: capacity of the data queue in batches (``MS_DATASET_SINK_QUEUE``, MindSpore's own
            variable). Ascend's default is 16 (ascend_data_queue.cc).
        rank: of this process.
        log: folder of the records (``FAKE_DEVICE_LOG``), or None.
        library: from ``register.build`` (``FAKE_DEVICE_LIBRARY``).
    """

    device: str
    seen: tuple[int, ...] | None = tuple(range(8))
    chip: str = "ascend910b"
    overflow_mode: str = ""
    overflows: frozenset[int] = field(default_factory=frozenset)
    validation_overflows: bool = False
    step_seconds: float = 0.0
    queue: int = 16
    rank: int = 0
    log: Path | None = None
    library: Path | None = None

    @classmethod
    def read(cls, device: str, environ: Mapping[str, str]) -> Settings:
        rank = next((int(environ[name]) for name in _RANK if environ.get(name)), 0)
        count = environ.get("FAKE_DEVICE_COUNT", "8")
        asked = [pair.split(":") for pair in environ.get("FAKE_DEVICE_OVERFLOWS", "").split(",")]
        log, library = environ.get("FAKE_DEVICE_LOG"), environ.get("FAKE_DEVICE_LIBRARY")
        return cls(
            device,
            None if count == "none" else visible(device, int(count), environ),
            environ.get("FAKE_DEVICE_CHIP", "ascend910b") if device == "Ascend" else "",
            environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE", ""),
            frozenset(int(pair[1]) for pair in asked if len(pair) == 2 and int(pair[0]) == rank),
            bool(environ.get("FAKE_DEVICE_VALIDATION_OVERFLOWS")),
            float(environ.get("FAKE_DEVICE_STEP_SECONDS") or 0),
            int(environ.get("MS_DATASET_SINK_QUEUE") or 16),
            rank,
            Path(log) if log else None,
            Path(library) if library else None,
        )

    @property
    def devices(self) -> int | None:
        """Number of devices that this process sees."""
        return None if self.seen is None else len(self.seen)

    def physical(self, number: int) -> int:
        """Return the host's number of the device with this number in the process."""
        return self.seen[number]

    @property
    def saturates(self) -> bool:
        """Whether an overflow results in the largest number, and a NaN in 0 (wheel: amp.py:120)."""
        if self.device != "Ascend":
            return False
        return self.chip == "ascend910" or self.overflow_mode == "SATURATION_MODE"


def visible(device: str, count: int, environ: Mapping[str, str]) -> tuple[int, ...]:
    """Return which of a host's devices a process sees.

    CUDA ignores the first invalid index and everything after it; an empty list hides all devices
    (docs.nvidia.com/cuda/cuda-programming-guide, environment variables). CANN reads digits and
    commas up to the first other character or invalid id (hiascend.com, envref_07_0028).

    >>> visible("GPU", 8, {"CUDA_VISIBLE_DEVICES": "2,0,-1,1"})
    (2, 0)
    >>> visible("Ascend", 8, {"ASCEND_RT_VISIBLE_DEVICES": "1,3,8"})
    (1, 3)
    """
    listed = environ.get(_VISIBLE[device])
    if listed is None or (device == "Ascend" and not listed):
        return tuple(range(count))
    seen = []
    for entry in listed.split(",") if listed else []:
        if not re.fullmatch(r"\d+", entry.strip() if device == "GPU" else entry):
            break
        if int(entry) >= count:
            break
        seen.append(int(entry))
    return tuple(seen)
