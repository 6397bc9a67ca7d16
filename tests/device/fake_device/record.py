"""Records calls in order: one line of JSON per call, one file per rank."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TextIO

__all__ = ["read", "start", "write"]

_lock = threading.Lock()
_file: TextIO | None = None


def start(folder: Path | None, rank: int) -> None:
    """Open ``folder/rank<rank>.jsonl``; with None nothing is recorded."""
    global _file
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        # Open until the process ends.
        _file = open(folder / f"rank{rank}.jsonl", "w", buffering=1)  # noqa: SIM115


def write(call: str, **facts: object) -> None:
    """Record a call as a whole line, so that a killed process leaves no partial ones."""
    if _file is not None:
        with _lock:
            _file.write(json.dumps({"call": call, **facts}) + "\n")


def read(folder: Path) -> list[list[dict]]:
    """Read the records of all ranks, in the order of ranks."""
    paths = sorted(folder.glob("rank*.jsonl"), key=lambda path: int(path.stem[4:]))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
