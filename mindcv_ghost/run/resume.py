"""Which state a run resumes from, and which settings may have changed since it was saved.

A state is saved at the end of each epoch and, on request, between two updates of an epoch. It holds
the settings of its run (``config.resume_rules`` sorts them into the groups of this table):

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
``epoch_size``, more           accepted, also if the run is   accepted; two lines say which rates
                               finished; two lines say which  were to follow, and which do
                               rates were to follow, and
                               which do
``epoch_size``, fewer          the same; an error if they are the same; an error if they end before
                               fewer than are done            the epoch that has begun
schedule's lengths in epochs   accepted together with         the same
                               ``epoch_size``, else as the
                               next row
images, ``seed``, and what     an error, unless               an error, unless ``resume_anyway``
else orders the images         ``resume_anyway`` names it;    names it; then the newest end of an
                               then a warning                 epoch before it is used
``lr``, augmentation, loss,    an error, unless               the same
optimizer's settings, the      ``resume_anyway`` names it;
teacher or its weights, ...    then a warning
model, classes, ``opt``,       an error                       an error
``ema``, loss scale
``pretrained``, ``ckpt_path``, an error, unless left out:     the same
``reset_head``                 then the record keeps what the
                               run started from
============================== ============================== ===================================

After a change of the schedule the rate of each update is that of the new recipe's schedule at that
update, as if the run had followed it from its start.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mindcv_ghost.config.keys import SchedulerConfig
from mindcv_ghost.config.raw_value import quoted
from mindcv_ghost.config.resume_rules import REASONS, START, Change, Changes, compare_settings
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.run_writer import RunWriter
from mindcv_ghost.engine.trainer import Trainer
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.run.schedule import describe_rates, schedule_of_settings, stays_low
from mindcv_ghost.storage.resume_folder import FOLDER, find_epoch_end, find_state
from mindcv_ghost.storage.training_state import StateFile

__all__ = ["ResumePoint", "find_resume_point"]

_logger = logging.getLogger(__name__)
_OF_THE_SCHEDULE = {"epoch_size", *(row.name for row in fields(SchedulerConfig))}


@dataclass(frozen=True)
class ResumePoint:
    """The state that a run resumes from.

    Args:
        facts: of the state, on every rank.
        file: the state's file, on rank 0; else None.
        changes: of settings since it was saved; none on other ranks.
    """

    facts: dict[str, Any]
    file: StateFile | None
    changes: Changes = Changes()

    @property
    def batches(self) -> int:
        """Batches of the run that are done."""
        return self.facts["position"]["batches"]

    @property
    def start(self) -> dict[str, Any]:
        """What the run started from, as its settings say."""
        settings = self.facts["settings"]
        return {key: settings[key] for key in START if key in settings}

    def lies_in(self, run_folder: Path) -> bool:
        """Whether the state belongs to this run folder; on rank 0."""
        if self.file is None:
            return False
        return self.file.path.parent.resolve() == (run_folder / FOLDER).resolve()

    @property
    def history(self) -> list[dict[str, Any]]:
        """Changes that the results depend on, with the position at which they were made."""
        history = list(self.facts.get("history", []))
        lines = [str(change) for change in self.changes.of_results]
        return [*history, {**self.facts["position"], "changes": lines}] if lines else history

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
            try:
                arrays = self.file.read(trainer.state.expected_arrays(ranks))
            except CheckpointError as error:
                raise _with_named_changes(error, self.changes.named) from error
        with _invalid_facts_as_errors("the state"):
            trainer.restore(self.facts, arrays, updates_per_epoch)
            if self.file is not None:
                self._log_rates(trainer, updates_per_epoch)

    def _log_rates(self, trainer: Trainer, updates_per_epoch: int) -> None:
        """Say which learning rates were to follow and which do, if the schedule has changed."""
        changed = [c for c in self.changes.of_results if c.key in _OF_THE_SCHEDULE]
        if not changed:
            return
        before = schedule_of_settings(self.facts["settings"], updates_per_epoch)
        place = (trainer.step.updates_done, trainer.position.epoch, updates_per_epoch)
        for when, schedule, values in (
            ("before", before, [f"{c.key} {quoted(c.before)}" for c in changed]),
            ("now", trainer.schedule, [f"{c.key} {quoted(c.now)}" for c in changed]),
        ):
            _logger.info("%s: %s: %s", when, ", ".join(values), describe_rates(schedule, *place))
        if stays_low(before, trainer.schedule, place[0]):
            _logger.warning(
                "the schedule has come to its end, and the rate doesn't change any more: give its "
                "decay_epochs (multi_step_decay: its milestones) as well if it should follow the "
                "longer run"
            )

    def give_up_later(self, writer: RunWriter) -> None:
        """Put aside what its run wrote after this state; on rank 0, once nothing can fail."""
        if self.file is not None and self.lies_in(writer.checkpoints.folder):
            writer.give_up_after(self.file.path)

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
    accepted: Sequence[str] = (),
) -> ResumePoint | None:
    """Find the state that ``--resume`` asks for; every rank has to call it.

    Args:
        resume: "", "auto" or a path.
        run_folder: of the run that is about to start, on rank 0; else None.
        settings: of that run, on rank 0, as its states will hold them; else None.
        collectives: rank 0 reads the disk and broadcasts the facts.
        accepted: ``resume_anyway``, changes that are accepted though results depend on them.

    Returns:
        None if ``resume`` is "", or "auto" and the run folder has no state.

    Raises:
        CheckpointError: if there is no such state, or it can't be resumed with these settings.
    """
    if not resume:
        return None
    file, changes = None, Changes()
    if run_folder is not None and settings is not None:
        file = find_state(resume, run_folder)
        if file is None:
            _logger.info("--resume auto: nothing to continue in %s, a new run starts", run_folder)
        else:
            file, changes = _matching_state(file, settings, accepted)
    facts = collectives.broadcast_object(None if file is None else file.facts)
    return ResumePoint(facts, file, changes) if isinstance(facts, dict) else None


def _matching_state(
    file: StateFile, settings: dict[str, Any], accepted: Sequence[str]
) -> tuple[StateFile, Changes]:
    """Compare a state's settings with the new run's; return the state to resume from, and changes.

    That is the given one, or the newest end of an epoch before it (see the module's table).
    """
    with _invalid_facts_as_errors(file.path):
        _check_facts(file.facts)
        changes = compare_settings(file.facts["settings"], settings, accepted)
    if changes.impossible or changes.unnamed:
        raise CheckpointError(_refusal(file, changes, accepted))
    if changes.between_epochs and file.facts["position"]["step"]:
        before = _find_epoch_end(file, list(map(str, changes.between_epochs)))
        return _matching_state(before, settings, accepted)
    _check_epochs(file, settings["epoch_size"])
    _log_changes(changes)
    _log_position(file, settings["epoch_size"])
    return file, changes


def _refusal(file: StateFile, changes: Changes, accepted: Sequence[str]) -> str:
    """Say which changes make it another run, and how to continue."""
    lines = [f"{change} (can't: {REASONS[change.key]})" for change in changes.impossible]
    lines += map(str, changes.unnamed)
    names = [change.key for change in changes.unnamed]
    accept = ""
    if names:
        accept = (
            f"\nTo continue with the new {' and '.join(names)}, add --resume_anyway "
            f"{' '.join([*accepted, *names])}."
        )
    return (
        f"{file.path} belongs to a run with other settings:\n  "
        + "\n  ".join(lines)
        + "\nSet these back (that run's settings are in its config.yaml), or start a new run "
        f"in another --ckpt_save_dir, from its weights with --ckpt_path.{accept}"
    )


def _check_epochs(file: StateFile, epochs: int) -> None:
    """Refuse fewer epochs than a state has behind it."""
    position = file.facts["position"]
    begun = position["epoch"] + (1 if position["step"] else 0)
    if epochs >= begun:
        return
    done = f"{position['epoch']} epoch{'' if position['epoch'] == 1 else 's'}"
    if position["step"]:
        done += f" and {position['step']} batches of the next"
    raise CheckpointError(
        f"epoch_size {epochs} is less than what is done: {file.path} has {done}. Give --epoch_size "
        f"{begun} or more, or start a new run in another --ckpt_save_dir."
    )


def _log_changes(changes: Changes) -> None:
    for change in changes.between_epochs:
        if change not in changes.named:
            _logger.warning("from here on %s", change)
    for change in changes.named:
        _logger.warning("from here on %s, as --resume_anyway accepts", change)
    for change in changes.inexact:
        _logger.warning("%s: the run continues, but not bit for bit as without this change", change)
    for name in changes.unchanged:
        _logger.info("--resume_anyway %s: nothing to accept here", name)
    if changes.kept:
        start = ", ".join(f"{change.key} {quoted(change.before)}" for change in changes.kept)
        _logger.info("the run started with %s: config.yaml keeps that", start)


def _with_named_changes(error: CheckpointError, named: Sequence[Change]) -> CheckpointError:
    """Add the accepted changes to an error about the state's arrays, which they may explain."""
    if not named:
        return error
    names = " and ".join(change.key for change in named)
    return type(error)(
        f"{error}\n--resume_anyway accepted another {names}; a change that needs other arrays than "
        "the state has can't be accepted."
    )


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
    if not isinstance(facts.get("history", []), list):
        raise ValueError(f"history {facts['history']}")


def _log_position(file: StateFile, epochs: int) -> None:
    epoch, step = file.facts["position"]["epoch"], file.facts["position"]["step"]
    steps = file.facts["steps_per_epoch"]
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
