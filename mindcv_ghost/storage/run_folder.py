"""The folder that a run writes into: one run at a time, everything needed to repeat it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from mindcv_ghost.errors import UserError
from mindcv_ghost.storage.atomic_file import write_bytes

__all__ = ["RunFolder", "RunFolderError"]


class RunFolderError(UserError):
    """The run folder can't be used."""


class RunFolder:
    """Opens a run folder for writing and keeps other runs out until the process ends.

    The lock is the operating system's (``flock``): it goes with the process however that ends, so
    that a killed run never leaves a folder locked.

    Args:
        path: created if needed.

    Raises:
        RunFolderError: if it can't be written, or another run is writing there.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 (held until the end)
        except OSError as error:
            raise RunFolderError(
                f"the run folder {self.path} can't be written ({error.strerror}). Give another one "
                "with --ckpt_save_dir."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                f"another run is writing to {self.path}. Wait for it, or give this run a folder of "
                "its own with --ckpt_save_dir."
            ) from None
        except OSError:
            # Some network file systems have no locks; a run without one is better than none.
            pass

    def close(self) -> None:
        """Let other runs in."""
        self._lock.close()

    def set_aside(self, name: str) -> Path | None:
        """Rename an earlier run's file to the first free ``<stem>.<n><suffix>`` and tell it."""
        old = self.path / name
        if not old.exists():
            return None
        number = 1
        while (target := old.with_name(f"{old.stem}.{number}{old.suffix}")).exists():
            number += 1
        old.rename(target)
        return target

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, which a later run can be started from."""
        self._write("config.yaml", text)

    def write_facts(self, facts: dict) -> None:
        """Write ``run.json``: what a results table has to know beside config and metrics."""
        self._write("run.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            write_bytes(self.path / name, text.encode())
        except OSError as error:
            raise RunFolderError(
                f"{self.path / name} can't be written ({error.strerror}). Free some space, or give "
                "another folder with --ckpt_save_dir."
            ) from error


def source_commit() -> str | None:
    """Name the git commit this package runs from, with ``-dirty`` behind if files differ from it.

    None where the package isn't in a git checkout of its own.
    """
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            [
                "git",
                "-C",
                str(here),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=12",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
