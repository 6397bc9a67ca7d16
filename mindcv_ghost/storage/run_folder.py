"""The folder that one run writes to: its lock, its configuration and its summary."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from pathlib import Path

from mindcv_ghost.errors import UserError
from mindcv_ghost.storage.atomic_file import remove_temporary_files, write_bytes

__all__ = [
    "RunFolder",
    "RunFolderError",
    "divergence_report",
    "is_numbered_checkpoint",
    "unwritable",
]

_NUMBERED = r"-\d+_\d+\.ckpt"  # after the model: epoch and steps
# Checkpoints that a run may never replace: last.ckpt is written after each epoch.
_KEPT = re.compile(rf"best\.ckpt|.+{_NUMBERED}")
_DIVERGED = re.compile(r"diverged(_rank\d+)?\.json")
# All files that a run replaces in its folder. Other commands write others into it without a lock.
_REPLACED = (
    rf"{_KEPT.pattern}|last\.ckpt|metrics\.csv|config\.yaml|run\.json|{_DIVERGED.pattern}|\.probe"
)


def is_numbered_checkpoint(name: str, model: str) -> bool:
    """Say whether a file is the checkpoint of one of a model's epochs: ``MODEL-EPOCH_STEPS.ckpt``.

    >>> is_numbered_checkpoint("ghost_resnet50-3_468.ckpt", "ghost_resnet50")
    True
    """
    return bool(re.fullmatch(re.escape(model) + _NUMBERED, name))


def divergence_report(rank: int) -> str:
    """Name the file in which a rank of a diverged run tells what it saw last.

    >>> divergence_report(0), divergence_report(3)
    ('diverged.json', 'diverged_rank3.json')
    """
    return f"diverged_rank{rank}.json" if rank else "diverged.json"


class RunFolderError(UserError):
    """The run folder can't be used."""


def unwritable(path: str | os.PathLike, error: OSError) -> RunFolderError:
    """Return the error that tells of a run folder that can't be written."""
    return RunFolderError(
        f"the run folder {path} can't be written ({error.strerror}). Give another one with "
        "--ckpt_save_dir."
    )


class RunFolder:
    """Opens a run folder for writing and locks it against other runs until the process ends.

    The lock is the operating system's (``flock``). It ends with the process, so a killed run never
    leaves a folder locked.

    Args:
        path: created if needed; temporary files of a killed run are removed.

    Raises:
        RunFolderError: if it can't be written, or another run is writing to it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 (held until the end)
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                f"another run is writing to {self.path}. Wait for it, or give this run a folder of "
                "its own with --ckpt_save_dir."
            ) from None
        except OSError:
            # Some network file systems have no locks; go on without one. Temporary files stay, as
            # they may be those of a run that is writing.
            return
        with contextlib.suppress(OSError):
            remove_temporary_files(self.path, _REPLACED)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def back_up(self, name: str) -> Path | None:
        """Rename an earlier run's file or folder to the first free ``<stem>.<n><suffix>``.

        Args:
            name: of the file or folder in the run folder.

        Returns:
            The new path, or None if there was nothing to rename.
        """
        old = self.path / name
        if not old.exists():
            return None
        number = 1
        while (target := old.with_name(f"{old.stem}.{number}{old.suffix}")).exists():
            number += 1
        old.rename(target)
        return target

    def checkpoints(self) -> list[str]:
        """Return the names of ``best.ckpt`` and the numbered checkpoints, of any network."""
        return self._matching(_KEPT)

    def divergence_reports(self) -> list[str]:
        """Return the names of what the ranks of a diverged run have written."""
        return self._matching(_DIVERGED)

    def _matching(self, names: re.Pattern[str]) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if names.fullmatch(path.name))

    def has_config(self, text: str) -> bool:
        """Tell whether ``config.yaml`` is this text."""
        try:
            return (self.path / "config.yaml").read_bytes() == text.encode()
        except OSError:
            return False

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, from which the run can be repeated."""
        self._write("config.yaml", text)

    def write_facts(self, facts: dict) -> None:
        """Write ``run.json``: what a table of results needs beside configuration and metrics."""
        self._write("run.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            write_bytes(self.path / name, text.encode())
        except OSError as error:
            raise RunFolderError(
                f"{self.path / name} can't be written ({error.strerror}). Free some space, or give "
                "another folder with --ckpt_save_dir."
            ) from error
