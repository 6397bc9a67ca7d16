"""Which state a run resumes from, and which settings may have changed since it was saved.

A state is saved at the end of each epoch and, on request, between two updates of an epoch. It holds
the settings of its run (``config.resume_rules`` sorts the keys into the groups of this table):

============================== ============================== ===================================
setting that has changed       state at the end of an epoch   state within an epoch
============================== ============================== ===================================
folders, logging, validation,  accepted                       accepted
what is saved and kept
device, kernels, workers       accepted; a warning says that  accepted, with the same warning
                               the last bits may differ
ranks, ``batch_size``,         accepted, with a warning       the newest end of an epoch before it
``gradient_accumulation_steps``                               is used instead; an error if there
                                                              is none
model, data, optimizer and     an error                       an error
everything else
============================== ============================== ===================================
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindcv_ghost.config.resume_rules import changed_keys
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.run_writer import RunWriter
from mindcv_ghost.engine.trainer import Trainer
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.resume_folder import FOLDER, find_epoch_end, find_state
from mindcv_ghost.storage.training_state import StateFile

__all__ = ["ResumePoint", "find_resume_point"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """The state that a run resumes from.

    Args:
        facts: of the state, on every rank.
        file: the state's file, on rank 0; else None.
    """

    facts: dict[str, Any]
    file: StateFile | None

    @property
    def batches(self) -> int:
        """Batches of the run that are done."""
        return self.facts["position"]["batches"]

    def lies_in(self, run_folder: Path) -> bool:
        """Whether the state belongs to this run folder; on rank 0."""
        return self.file is not None and self.file.path.parent == run_folder / FOLDER

    def restore(self, trainer: Trainer, updates_per_epoch: int) -> None:
        """Restore a trainer; every rank has to call it.

        Args:
            trainer: of the run that is about to start.
            updates_per_epoch: of that run.

        Raises:
            CheckpointError: if the file's arrays don't fit the trainer's network.
        """
        arrays = None
        if self.file is not None:
            ranks = self.facts["ranks"] if self.facts["position"]["step"] else 1
            arrays = self.file.read(trainer.state.expected_arrays(ranks))
        with _invalid_facts_as_errors("the state"):
            trainer.restore(self.facts, arrays, updates_per_epoch)

    def restore_writer(self, writer: RunWriter) -> None:
        """Restore what a writer remembers of the run's files; on rank 0."""
        if self.file is not None:
            with _invalid_facts_as_errors(self.file.path):
                writer.restore(self.facts, self.file.path)


def find_resume_point(
    resume: str,
    run_folder: Path | None,
    settings: dict[str, Any] | None,
    collectives: Collectives,
) -> ResumePoint | None:
    """Find the state that ``--resume`` asks for; every rank has to call it.

    Args:
        resume: "", "auto" or a path.
        run_folder: of the run that is about to start, on rank 0; else None.
        settings: of that run, on rank 0, as its states will hold them; else None.
        collectives: rank 0 reads the disk and broadcasts the facts.

    Returns:
        None if ``resume`` is "", or "auto" and the run folder has no state.

    Raises:
        CheckpointError: if there is no such state, or it can't be resumed with these settings.
    """
    if not resume:
        return None
    file = None
    if run_folder is not None and settings is not None:
        file = find_state(resume, run_folder)
        if file is None:
            _logger.info("--resume auto: nothing to continue in %s, a new run starts", run_folder)
        else:
            file = _matching_state(file, settings)
    facts = collectives.broadcast_object(None if file is None else file.facts)
    return ResumePoint(facts, file) if isinstance(facts, dict) else None


def _matching_state(file: StateFile, settings: dict[str, Any]) -> StateFile:
    """Compare a state's settings with the new run's, and return the state to resume from.

    That is the given one, or the newest end of an epoch before it (see the module's table).
    """
    with _invalid_facts_as_errors(file.path):
        _check_facts(file.facts)
        other, between_epochs, inexact = changed_keys(file.facts["settings"], settings)
    if other:
        raise CheckpointError(
            f"{file.path} belongs to a run with other settings:\n  "
            + "\n  ".join(other)
            + "\nSet these back (that run's settings are in its config.yaml), or start a new run "
            "in another --ckpt_save_dir, from its weights with --ckpt_path."
        )
    if between_epochs and file.facts["position"]["step"]:
        return _matching_state(_find_epoch_end(file, between_epochs), settings)
    for line in between_epochs:
        _logger.warning("from here on %s", line)
    for line in inexact:
        _logger.warning("%s: the run continues, but not bit for bit as without this change", line)
    _log_position(file)
    return file


def _find_epoch_end(file: StateFile, changes: list[str]) -> StateFile:
    """Find the newest state before a given one that ends an epoch.

    Args:
        file: a state within an epoch.
        changes: lines ``key: old before, new now`` that need the end of an epoch.

    Raises:
        CheckpointError: if there is none.
    """
    found = find_epoch_end(file)
    if found is None:
        raise CheckpointError(
            f"{file.path} was saved within epoch {file.facts['position']['epoch'] + 1}, and these "
            "settings can only change between epochs:\n  "
            + "\n  ".join(changes)
            + "\nNo state from the end of an epoch has been saved yet. Resume with the old "
            "settings, or leave --resume out to start a new run."
        )
    _logger.warning(
        "%s lies within an epoch, where %s can't change: going back to %s",
        file.path.name,
        " and ".join(line.split(":")[0] for line in changes),
        found.path.name,
    )
    return found


def _check_facts(facts: dict[str, Any]) -> None:
    """Raise an error of Python's if a state's position is one that no run has."""
    settings, position = facts["settings"], facts["position"]
    epoch, step = position["epoch"], position["step"]
    epoch_is_valid = 0 <= epoch <= settings["epoch_size"]
    step_is_valid = 0 <= step <= facts["steps_per_epoch"]
    if not (epoch_is_valid and step_is_valid and position["batches"] >= 0):
        raise ValueError(f"position {position}")
    if facts["ranks"] != settings["ranks"]:
        raise ValueError(f"ranks {facts['ranks']}")


def _log_position(file: StateFile) -> None:
    epoch, step = file.facts["position"]["epoch"], file.facts["position"]["step"]
    epochs, steps = file.facts["settings"]["epoch_size"], file.facts["steps_per_epoch"]
    if epoch >= epochs:
        _logger.info("the run is finished: %d of %d epochs (%s)", epoch, epochs, file.path)
    elif step:
        where = f"batch {step} of {steps} of epoch {epoch + 1}"
        _logger.info("continuing after %s: %s", where, file.path)
    else:
        _logger.info("continuing with epoch %d: %s", epoch + 1, file.path)


@contextlib.contextmanager
def _invalid_facts_as_errors(where: object) -> Iterator[None]:
    """Turn the errors of facts that this package didn't write into a CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where} can't be resumed: its metadata are inconsistent ({error!r}). Another version "
            "or program wrote it."
        ) from error
