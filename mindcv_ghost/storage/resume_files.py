"""The files that a stopped run goes on from: which are kept, which is taken.

They lie in ``RUN/resume`` and are numbered in the order of writing, so that the newest is known
without trusting a clock: ``000012_epoch3_step40.safetensors`` holds the state after 3 whole epochs
and 40 batches of the next.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import remove_leftovers
from mindcv_ghost.storage.state_file import DamagedFile, StateFile, open_state, write_state

__all__ = ["FOLDER", "ResumeFiles", "find_state"]

FOLDER = "resume"
_NAME = re.compile(r"(\d{6,})_epoch(\d+)_step(\d+)\.safetensors")
_NEWEST = 2
_logger = logging.getLogger(__name__)


class ResumeFiles:
    """Writes states into a folder and decides which stay.

    The newest two stay, so that there is one to fall back on if the newest is found damaged, and
    the newest that ends an epoch, from which the run can go on with another number of ranks.

    Args:
        folder: ``RUN/resume``, created if needed; a killed save's leftovers are removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)

    def save(self, arrays: Mapping[str, np.ndarray], facts: dict, epoch: int, step: int) -> Path:
        """Write a state; older ones go only after it is safe on the disk.

        Args:
            arrays, facts: as :func:`write_state` takes them.
            epoch: whole epochs behind it.
            step: batches of the next one behind it.

        Raises:
            OSError: if it can't be written; all older files are then untouched.
        """
        files = _files(self.folder)
        number = _number(files[-1]) + 1 if files else 1
        path = self.folder / f"{number:06d}_epoch{epoch}_step{step}.safetensors"
        write_state(path, arrays, facts)
        for old in superseded([*files, path]):
            with contextlib.suppress(OSError):
                old.unlink()
        return path


def superseded(files: list[Path]) -> list[Path]:
    """Name the files that may go; ``files`` in the order of writing.

    >>> names = ["000001_epoch1_step0", "000002_epoch1_step5", "000003_epoch1_step9"]
    >>> [p.stem for p in superseded([Path(n + ".safetensors") for n in [*names]])]
    []
    """
    stay = set(files[-_NEWEST:])
    stay.update([path for path in files if _step(path) == 0][-1:])
    return [path for path in files if path not in stay]


def find_state(where: str, run_folder: Path) -> StateFile | None:
    """Find the newest good state; damaged ones are named loudly and set aside.

    Args:
        where: "auto": ``run_folder``'s, None if it has none at all; or a run folder, or a file,
            whose predecessors are taken if it is damaged.
        run_folder: of the run that is about to start.

    Raises:
        CheckpointError: if nothing is there, or nothing that is whole.
    """
    path = run_folder if where == "auto" else Path(where)
    if path.is_file():
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
        except DamagedFile as error:
            damaged.append(file)
            _logger.warning("%s", error)
            continue
        if damaged:
            _logger.warning("the one before it is whole and used instead: %s", file)
        _set_aside(damaged)
        return state
    raise CheckpointError(
        f"none of {', '.join(map(str, files))} is whole. Start anew by leaving --resume out (what "
        "is there is set aside), or from the weights alone with --ckpt_path."
    )


def last_epoch_end(state: StateFile) -> StateFile | None:
    """Find the newest good state that ends an epoch and isn't newer than ``state``."""
    files = [file for file in _files(state.path.parent) if _is_before(file, state.path)]
    for file in reversed([file for file in files if _step(file) == 0]):
        with contextlib.suppress(DamagedFile):
            return open_state(file)
    return None


def _set_aside(files: list[Path]) -> None:
    """Rename damaged files, so that they don't count among those that are kept."""
    for file in files:
        with contextlib.suppress(OSError):
            file.rename(file.with_name(file.name + ".damaged"))


def _files(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return int(_NAME.fullmatch(path.name).group(1))


def _step(path: Path) -> int:
    return int(_NAME.fullmatch(path.name).group(3))


def _is_before(file: Path, other: Path) -> bool:
    """Whether a numbered file was written before another; False if that one has no number."""
    match = _NAME.fullmatch(other.name)
    return match is not None and _number(file) < int(match.group(1))
