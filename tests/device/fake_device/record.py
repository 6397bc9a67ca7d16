"""What was called, in order: a line of JSON each, a file a rank."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TextIO

__all__ = ["read", "start", "write"]

_lock = threading.Lock()
_file: TextIO | None = None


def start(folder: Path | None, rank: int) -> None:
    """Write to ``folder/rank<rank>.jsonl`` from now on; None writes nowhere."""
    global _file
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        # Held open: the record ends with the process.
        _file = open(folder / f"rank{rank}.jsonl", "w", buffering=1)  # noqa: SIM115


def write(call: str, **facts: object) -> None:
    """Note a call. Whole lines, so that a process that is killed leaves whole ones."""
    if _file is not None:
        with _lock:
            _file.write(json.dumps({"call": call, **facts}) + "\n")


def read(folder: Path) -> list[list[dict]]:
    """The records of all ranks, in their order."""
    paths = sorted(folder.glob("rank*.jsonl"), key=lambda path: int(path.stem[4:]))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
