"""The states of a run in ``RUN/resume``: which files stay, and which one a run resumes from.

The files are numbered in the order of writing, so the newest is known without trusting a clock:
``000012_epoch3_step40.safetensors`` holds the state after 3 whole epochs and 40 batches of the
next one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import remove_temporary_files
from mindcv_ghost.storage.training_state import (
    DamagedFileError,
    StateFile,
    UnreadableStateError,
    open_state,
    write_state,
)

__all__ = ["FOLDER", "ResumeFolder", "find_epoch_end", "find_state", "has_states"]

FOLDER = "resume"
_NAME = re.compile(r"(\d{6,})_epoch(\d+)_step(\d+)\.safetensors")
_NEWEST = 2
_logger = logging.getLogger(__name__)


class ResumeFolder:
    """Writes states into a folder and removes old ones.

    The newest two stay, in case the newest turns out to be damaged. The newest at the end of an
    epoch stays as well: from it the run can be resumed with another number of ranks.

    Args:
        folder: ``RUN/resume``, created if needed; temporary files of a killed save are removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        remove_temporary_files(folder, _NAME.pattern)

    def save(self, arrays: Mapping[str, np.ndarray], facts: dict, epoch: int, step: int) -> Path:
        """Write a state; older ones are removed only after it is safe on the disk.

        Args:
            arrays: as :func:`write_state` takes them.
            facts: as :func:`write_state` takes them.
            epoch: whole epochs trained.
            step: batches trained of the next epoch.

        Raises:
            OSError: if it can't be written; all older files are then unchanged.
        """
        files = _files(self.folder)
        number = _number(files[-1]) + 1 if files else 1
        path = self.folder / f"{number:06d}_epoch{epoch}_step{step}.safetensors"
        write_state(path, arrays, facts)
        for old in superseded([*files, path]):
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def give_up_after(self, path: Path) -> list[Path]:
        """Rename the states that were written after one, because a run goes on from that one.

        They would be taken for its continuation. Those that were given up before are removed.

        Args:
            path: of the state, in this folder.

        Returns:
            The new paths, ``*.given_up``, in the order of writing.
        """
        later = [file for file in _files(self.folder) if _is_before(path, file)]
        if later:
            for old in self.folder.glob("*.given_up"):
                with contextlib.suppress(OSError):
                    old.unlink()
        return [file.replace(file.with_name(file.name + ".given_up")) for file in later]


def superseded(files: list[Path]) -> list[Path]:
    """List the files that may be removed.

    Args:
        files: in the order of writing.

    >>> names = ["000001_epoch0_step5", "000002_epoch1_step0", "000003_epoch1_step5"]
    >>> names.append("000004_epoch1_step9")
    >>> [path.stem for path in superseded([Path(name + ".safetensors") for name in names])]
    ['000001_epoch0_step5']
    """
    stay = set(files[-_NEWEST:])
    stay.update([path for path in files if _step(path) == 0][-1:])
    return [path for path in files if path not in stay]


def find_state(where: str, run_folder: Path) -> StateFile | None:
    """Find the newest intact state; damaged ones and unreadable ones are reported.

    Damaged ones of ``run_folder`` are renamed to ``*.damaged``; another run's folder stays as it
    is.

    Args:
        where: ``auto`` for the newest of ``run_folder``; or a run folder; or a file, whose
            predecessors are tried if it is damaged.
        run_folder: of the run that is about to start.

    Returns:
        The state; None if ``where`` is ``auto`` and ``run_folder`` has no states.

    Raises:
        CheckpointError: if nothing is there, or nothing that is intact.
    """
    path = run_folder if where == "auto" else Path(where)
    if os.path.isfile(path):  # Path's is_file raises for a name that is too long
        earlier = [file for file in _files(path.parent) if _is_before(file, path)]
        files = [*earlier, path]
    else:
        folder = path if path.name == FOLDER else path / FOLDER
        files = _files(folder)
        if not files and where == "auto":
            return None
        if not files:
            raise CheckpointError(
                f"--resume {where}: no such file, and no run folder with states in {folder}. Give "
                "a run folder, a file of its resume folder, or auto for the one in ckpt_save_dir."
            )
    damaged = []
    for file in reversed(files):
        try:
            state = open_state(file)
        except (DamagedFileError, UnreadableStateError) as error:
            if isinstance(error, DamagedFileError):
                damaged.append(file)
            _logger.warning("%s", error)
            continue
        if file is not files[-1]:
            _logger.warning("the state before it is intact and used instead: %s", file)
        if file.parent.resolve() == (run_folder / FOLDER).resolve():
            _rename_damaged(damaged)
        return state
    raise CheckpointError(
        f"none of {', '.join(map(str, files))} is intact and readable. Leave --resume out to start "
        "a new run (these files are kept under another name), or start from the weights with "
        "--ckpt_path."
    )


def find_epoch_end(state: StateFile) -> StateFile | None:
    """Find the newest intact state before ``state`` that was written at the end of an epoch."""
    for file in reversed(_files(state.path.parent)):
        if _step(file) == 0 and _is_before(file, state.path):
            with contextlib.suppress(DamagedFileError, UnreadableStateError):
                return open_state(file)
    return None


def has_states(folder: Path) -> bool:
    """Say whether a ``resume`` folder has a state, intact or not; the folder may not exist."""
    return bool(_files(folder))


def _rename_damaged(files: list[Path]) -> None:
    """Rename damaged files, so that they don't count among the newest two."""
    for file in files:
        with contextlib.suppress(OSError):
            file.rename(file.with_name(file.name + ".damaged"))


def _files(folder: Path) -> list[Path]:
    """List the states in a folder, in the order of writing."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except (OSError, ValueError):  # ValueError for a name with a NUL
        return []
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return _parsed(path)[0]


def _step(path: Path) -> int:
    return _parsed(path)[2]


def _parsed(path: Path) -> tuple[int, int, int]:
    """Read the file's number, epoch and step from its name; -1 each in a name of another form."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (-1, -1, -1)


def _is_before(file: Path, other: Path) -> bool:
    """Tell whether a numbered file was written before another; False if that has no number."""
    return _number(file) < _number(other)
