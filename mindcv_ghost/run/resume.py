"""Which state a run goes on from, and whether it may."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.config import Config
from mindcv_ghost.config.resume_rules import changed_keys
from mindcv_ghost.data import Source, fingerprint
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.saver import Saver
from mindcv_ghost.engine.trainer import Trainer
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.storage.checkpoint import CheckpointKeeper
from mindcv_ghost.storage.resume_files import FOLDER, ResumeFiles, find_state, last_epoch_end
from mindcv_ghost.storage.run_folder import RunFolder
from mindcv_ghost.storage.state_file import StateFile

__all__ = ["Continuation", "open_saver", "pick", "settings_of"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Continuation:
    """What a run goes on from.

    Args:
        facts: of the state, on every rank.
        state: the file itself, on rank 0.
    """

    facts: dict
    state: StateFile | None

    def take_up(self, trainer: Trainer, updates_per_epoch: int) -> None:
        """Put the state into a trainer; every rank has to call it.

        Raises:
            CheckpointError: if the file's arrays aren't those of the trainer's network.
        """
        arrays = None
        if self.state is not None:
            ranks = self.facts["ranks"] if self.facts["position"]["step"] else 1
            arrays = self.state.read(trainer.state.wanted(ranks))
        with _facts_as_expected("the state"):
            trainer.take_up(self.facts, arrays, updates_per_epoch)


def pick(
    resume: str, run_folder: Path | None, settings: dict | None, collectives: Collectives
) -> Continuation | None:
    """Find the state that ``--resume`` means; every rank has to call it.

    Args:
        resume: "", "auto" or a path.
        run_folder: of the run that is about to start, on rank 0.
        settings: of that run, on rank 0, as its states will hold them.
        collectives: rank 0 alone looks at the disk, and tells the others.

    Raises:
        CheckpointError: if there is none, or the one there is belongs to another run.
    """
    if not resume:
        return None
    state = None
    if run_folder is not None:
        state = find_state(resume, run_folder)
        if state is None:
            _logger.info("--resume auto: nothing to continue in %s, a new run starts", run_folder)
        else:
            state = _suitable(state, settings)
    facts = collectives.broadcast_object(None if state is None else state.facts)
    return None if facts is None else Continuation(facts, state)


@contextlib.contextmanager
def _facts_as_expected(where: object) -> Iterator[None]:
    """Facts that this package didn't write are an error, not a traceback."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{where} has facts that no run of ours has: {error!r}.") from error


def _suitable(state: StateFile, settings: dict) -> StateFile:
    with _facts_as_expected(state.path):
        before, position = state.facts["settings"], state.facts["position"]
        other, between, loose = changed_keys(before, settings)
        step, steps = position["step"], state.facts["steps_per_epoch"]
        epoch, epochs = position["epoch"], before["epoch_size"]
        if not (0 <= epoch <= epochs and 0 <= step <= steps and position["batches"] >= 0):
            raise ValueError(f"position {position}")
        if state.facts["ranks"] != before["ranks"]:
            raise ValueError(f"ranks {state.facts['ranks']}")
    if other:
        raise CheckpointError(
            f"{state.path} is of another run, which this recipe can't continue:\n  "
            + "\n  ".join(other)
            + "\nSet these back (that run's settings are in its config.yaml), or start a new run "
            "in another --ckpt_save_dir, from its weights with --ckpt_path."
        )
    if between and step:
        earlier = last_epoch_end(state)
        if earlier is None:
            raise CheckpointError(
                f"{state.path} lies within epoch {epoch + 1}, where this can't change:\n  "
                + "\n  ".join(between)
                + "\nIt can at an epoch's end, and none is saved yet. Continue as before, or start "
                "anew by leaving --resume out."
            )
        _logger.warning(
            "%s lies within an epoch, where %s can't change: going back to %s",
            *(state.path.name, " and ".join(line.split(":")[0] for line in between)),
            earlier.path.name,
        )
        return _suitable(earlier, settings)
    for line in between:
        _logger.warning("from here on %s", line)
    for line in loose:
        _logger.warning("%s: the run goes on, but not bit for bit as it would have", line)
    if epoch >= epochs:
        _logger.info("the run is finished: %d of %d epochs (%s)", epoch, epochs, state.path)
    else:
        where = f"batch {step} of {steps} of epoch {epoch + 1}" if step else f"epoch {epoch + 1}"
        _logger.info("continuing %s %s: %s", "behind" if step else "with", where, state.path)
    return state


def settings_of(
    config: Config, world: World, train_set: Source, num_classes: int, native_images: bool
) -> dict:
    """What decides whether a later run may continue this one."""
    return {
        **config.flat(),
        "ranks": world.size,
        "workers": config.workers,
        "native_images": native_images,
        "classes": num_classes,
        "class_names": list(train_set.classes),
        "training_set": f"{len(train_set)} images, {fingerprint(train_set)[:16]}",
    }


def open_saver(
    config: Config, folder: RunFolder, num_classes: int, earlier: Continuation | None
) -> Saver:
    """Open what a run writes; an earlier run that it doesn't continue is set aside."""
    keep = config.checkpoint
    if earlier is None or earlier.state.path.parent != folder.path / FOLDER:
        for name in ("metrics.csv", FOLDER):
            moved = folder.set_aside(name)
            if moved is not None:
                _logger.info("%s of an earlier run kept as %s", name, moved)
    saver = Saver(
        MetricsLog(folder.path / "metrics.csv", num_classes),
        EventsLog(folder.path / "events"),
        CheckpointKeeper(
            folder.path,
            config.model.model,
            keep.keep_checkpoint_max,
            keep.ckpt_save_policy,
            keep.ckpt_save_interval,
        ),
        ResumeFiles(folder.path / FOLDER),
        {},
    )
    if earlier is not None:
        with _facts_as_expected(earlier.state.path):
            saver.take_up(earlier.facts, earlier.state.path)
    return saver
