"""A training: created from its configuration, run, and recorded in its run folder."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn

from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.config import Config
from mindcv_ghost.data import Source, TrainLoader, check_splits, fingerprint
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.evaluator import Evaluator, NetworkForward
from mindcv_ghost.engine.run_writer import DiskError, RunWriter, check_space
from mindcv_ghost.engine.trainer import Summary, Trainer
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.evaluation import Evaluation
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.report.progress import format_duration
from mindcv_ghost.run.learner import Learner, create_learner, trainer_settings
from mindcv_ghost.run.parts import (
    create_eval_loader,
    create_initial_network,
    create_train_loader,
    log_facts,
    open_set,
    run_facts,
)
from mindcv_ghost.run.resume import ResumePoint, find_resume_point
from mindcv_ghost.run.session import Session
from mindcv_ghost.run.teacher import load_teacher, prepare_teacher
from mindcv_ghost.storage.checkpoint_manager import CheckpointManager
from mindcv_ghost.storage.provenance import source_commit, utc_now
from mindcv_ghost.storage.resume_folder import FOLDER, ResumeFolder, has_states
from mindcv_ghost.storage.run_folder import RunFolder

__all__ = ["TrainingRun", "create_training"]

_logger = logging.getLogger(__name__)
# What validation and the figures of a run leave in its folder (report/show.py).
_OF_A_RUN = ("validate.json", "confusion.png", "learning_curve.png")
_THEN = ", then "  # between the commits of a run


@dataclass(frozen=True)
class TrainingRun:
    """A training that is ready to start.

    Args:
        trainer: the training loop with everything that it needs.
        facts: what is trained on what, for the log and ``run.json``.
        folder: the run folder, on rank 0; else None.
    """

    trainer: Trainer
    facts: dict[str, Any]
    folder: RunFolder | None

    def run(self) -> Summary:
        """Train, and complete ``run.json``; every rank has to call it."""
        log_facts(self.facts)
        summary = self.trainer.run()
        if self.folder is not None:
            self.folder.write_facts({**self.facts, **_outcome(summary)})
            _log_teacher_share(self.facts, summary)
            _log_outcome(summary, self.folder)
        return summary


@dataclass(frozen=True)
class _Data:
    """The sets of a training; ``val_set`` is None if it doesn't validate."""

    train_set: Source
    val_set: Source | None
    num_classes: int
    loader: TrainLoader

    def bad_images(self) -> dict[str, str]:
        """Images that this rank couldn't read so far, and why."""
        sets = [self.train_set] if self.val_set is None else [self.train_set, self.val_set]
        # Threads that prefetch batches may add to ``bad``; dict.copy() isn't interrupted by them.
        return {printable(path): why for each in sets for path, why in each.bad.copy().items()}


def create_training(config: Config, world: World, session: Session) -> TrainingRun:
    """Put a training together; every rank has to call it.

    Args:
        config: the run's configuration.
        world: this process among the ranks.
        session: device and run folder; the ranks have joined.

    Raises:
        UserError: if data, checkpoint, model or run folder can't be used.
    """
    _refuse_resume_opt(config)
    collectives = Collectives(world.rank, world.size)
    device, folder = session.device, session.folder

    # Data, teacher, and the state to resume from.
    data = _open_data(config, world)
    loaded = load_teacher(config, data.num_classes, collectives)
    digest = None if loaded is None else loaded.digest
    settings, resume = _find_resume_point(config, world, folder, data, digest, collectives)
    if resume is not None:  # its files say what the run started from, whatever is given now
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, **resume.start)
        )
    teacher, teacher_facts = None, None
    if loaded is not None:
        teacher, teacher_facts = prepare_teacher(
            loaded, config, world, device, data.num_classes, collectives
        )

    # Network and learner. The teacher is created before the seed is set, so that the student's
    # initial weights are those of a run without one. The seed depends on the batches that are done:
    # a resumed run must not repeat the dropout masks of the run's start.
    ms.set_seed(config.system.seed + world.rank + (0 if resume is None else resume.batches))
    network, ghostify_report = create_initial_network(
        config, data.num_classes, data.train_set, load_initial_weights=resume is None
    )
    facts = _training_facts(config, world, device, data, count_parameters(network))
    if ghostify_report is not None:
        facts["ghostify"] = ghostify_report.as_dict()
    if teacher_facts is not None:
        facts["teacher"] = teacher_facts
    steps_per_epoch = data.loader.steps_per_epoch
    learner = create_learner(config, world, device, network, collectives, steps_per_epoch, teacher)

    # Training loop, where it begins, and whether there is space for its files. All that refuses a
    # run comes before anything in its folder changes.
    evaluate = _create_evaluate(config, world, learner, data, collectives)
    trainer = _create_trainer(config, device, learner, data, collectives, evaluate)
    if resume is not None:
        resume.restore(trainer, learner.updates_per_epoch)
        _warn_of_random_masks(network)
    if folder is not None:
        _check_space(folder, trainer)

        # The files that it writes.
        facts |= _origin(config, resume)
        if resume is not None and resume.history:
            facts["history"] = resume.history
        state_facts = _state_facts(facts, settings, learner.updates_per_epoch)
        try:
            writer = _create_writer(config, folder, data.num_classes, state_facts, resume)
        except OSError as error:
            raise DiskError(
                f"the run folder {folder.path} can't be written ({error.strerror or error}). Free "
                "some space, or give another one with --ckpt_save_dir."
            ) from error
        trainer.writer = writer
        _write_record(folder, config, facts, resume)
        if resume is not None:
            resume.give_up_later(writer)
    return TrainingRun(trainer, facts, folder)


def _refuse_resume_opt(config: Config) -> None:
    if config.checkpoint.resume_opt and config.model.ckpt_path:
        raise ConfigError(
            "resume_opt: a .ckpt file doesn't hold what an exact continuation needs. Continue a "
            "stopped run with --resume auto (or --resume RUN_FOLDER), or leave resume_opt out to "
            "start a new run from the weights of --ckpt_path."
        )


def _open_data(config: Config, world: World) -> _Data:
    dataset = config.dataset
    train_set = open_set(config, dataset.train_split)
    val_set = None
    if config.system.val_while_train:
        val_set = open_set(config, dataset.val_split, train_set.classes or None)
    num_classes = check_splits(train_set, val_set, config.model.num_classes)
    loader = create_train_loader(config, train_set, num_classes, world)
    return _Data(train_set, val_set, num_classes, loader)


def _find_resume_point(
    config: Config,
    world: World,
    folder: RunFolder | None,
    data: _Data,
    teacher_weights: str | None,
    collectives: Collectives,
) -> tuple[dict[str, Any] | None, ResumePoint | None]:
    """Return the settings that this run's states will hold, on rank 0, and what it resumes from."""
    if folder is None:
        return None, find_resume_point(config.checkpoint.resume, None, None, collectives)
    settings = {
        **_resume_settings(config, world, data),
        "teacher_weights": teacher_weights,
    }
    accepted = config.checkpoint.resume_anyway
    resume = find_resume_point(
        config.checkpoint.resume, folder.path, settings, collectives, accepted
    )
    return {**settings, **({} if resume is None else resume.start)}, resume


def _resume_settings(config: Config, world: World, data: _Data) -> dict[str, Any]:
    """Collect the settings that decide whether a later run may continue this one."""
    train_set = data.train_set
    return {
        **config.flat(),
        "ranks": world.size,
        "workers": config.workers,
        "native_images": data.loader.native,
        "classes": data.num_classes,
        "class_names": list(train_set.classes),
        "training_set": f"{len(train_set)} images, {fingerprint(train_set)[:16]}",
    }


def _training_facts(
    config: Config, world: World, device: str, data: _Data, parameters: int
) -> dict[str, Any]:
    batch_size, accumulation = config.dataset.batch_size, config.train.gradient_accumulation_steps
    return {
        **run_facts(config, world, device, data.num_classes, parameters),
        "train_images": len(data.train_set),
        "val_images": None if data.val_set is None else len(data.val_set),
        "steps_per_epoch": data.loader.steps_per_epoch,
        "global_batch_size": batch_size * world.size * accumulation,
    }


def _state_facts(
    facts: dict[str, Any], settings: dict[str, Any] | None, updates_per_epoch: int
) -> dict[str, Any]:
    """Collect what every saved state holds beside its progress and arrays."""
    return {
        "model": facts["model"],
        "settings": settings,
        "ranks": facts["ranks"],
        "steps_per_epoch": facts["steps_per_epoch"],
        "updates_per_epoch": updates_per_epoch,
        "versions": facts["versions"],
        "history": facts.get("history", []),
        "origin": {key: facts.get(key) for key in ("commit", "hardware", "date")},
    }


def _is_over(config: Config, resume: ResumePoint) -> bool:
    """Whether a run that is resumed has all its epochs behind it."""
    return resume.facts["position"]["epoch"] >= config.train.epoch_size


def _origin(config: Config, resume: ResumePoint | None) -> dict[str, Any]:
    """Say what trained the run, where, and when its latest part began; on rank 0.

    A run that went on from another commit or on another machine names all of them. One that is
    finished, and resumed nevertheless, isn't trained any further.
    """
    now: dict[str, Any] = {
        "commit": source_commit(),
        "hardware": describe_hardware(),
        "date": utc_now(),
    }
    before = {} if resume is None else resume.facts.get("origin", {})
    if not before:
        return now
    assert resume is not None
    if _is_over(config, resume):
        return before
    for key in ("commit", "hardware"):
        parts = [part for part in (before[key] or "").split(_THEN) if part]
        now[key] = _THEN.join(dict.fromkeys([*parts, now[key]] if now[key] else parts)) or None
    return now


def _create_evaluate(
    config: Config, world: World, learner: Learner, data: _Data, collectives: Collectives
) -> Callable[[], Evaluation] | None:
    """Create the function that evaluates the network in training; None if it isn't validated."""
    if data.val_set is None:
        return None
    forward = NetworkForward(
        learner.step.model, graph_mode=config.system.mode == 0, compile=learner.compile
    )
    evaluator = Evaluator(forward, data.num_classes, collectives)
    loader = create_eval_loader(config, data.val_set, world)
    return lambda: evaluator.run(loader.batches())


def _create_writer(
    config: Config,
    folder: RunFolder,
    num_classes: int,
    state_facts: dict[str, Any],
    resume: ResumePoint | None,
) -> RunWriter:
    """Open the files of the run folder; those of a run that isn't resumed are renamed."""
    own = resume if resume is not None and resume.lies_in(folder.path) else None
    if own is None:
        _keep_earlier_run(folder, config)
    checkpoint = config.checkpoint
    writer = RunWriter(
        metrics=MetricsLog(
            folder.path / "metrics.csv", num_classes, teacher=bool(config.distill.teacher)
        ),
        events=EventsLog(folder.path / "events"),
        checkpoints=CheckpointManager(
            folder.path,
            config.model.model,
            checkpoint.keep_checkpoint_max,
            checkpoint.ckpt_save_policy,
            checkpoint.ckpt_save_interval,
        ),
        resume=ResumeFolder(folder.path / FOLDER),
        facts=state_facts,
        epochs=config.train.epoch_size,
    )
    if resume is not None:
        resume.restore_writer(writer)
    if own is not None and not _is_over(config, own):
        # They are of fewer epochs, or of an attempt that has ended.
        _rename(folder, (*folder.divergence_reports(), *_OF_A_RUN))
    return writer


def _keep_earlier_run(folder: RunFolder, config: Config) -> None:
    """Rename what an earlier run has left in the folder of a new one."""
    # A best.ckpt of another training would pass for this one's if it isn't validated, and so would
    # what commands have written next to it.
    names = ["metrics.csv", FOLDER, *folder.checkpoints(), *_OF_A_RUN]
    names += folder.divergence_reports()
    # If the same job was requeued before it could save a state, its record is this run's.
    if has_states(folder.path / FOLDER) or not folder.has_config(config.to_yaml()):
        names += ["config.yaml", "run.json"]
    _rename(folder, names)


def _rename(folder: RunFolder, names: Iterable[str]) -> None:
    for name in names:
        moved = folder.back_up(name)
        if moved is not None:
            _logger.info("%s of an earlier run kept as %s", name, moved)


def _create_trainer(
    config: Config,
    device: str,
    learner: Learner,
    data: _Data,
    collectives: Collectives,
    evaluate: Callable[[], Evaluation] | None,
) -> Trainer:
    return Trainer(
        learner.step,
        data.loader,
        trainer_settings(config, device),
        schedule=learner.schedule,
        collectives=collectives,
        evaluate=evaluate,
        ema=learner.ema,
        bad_images=data.bad_images,
        compile=learner.compile,
    )


def _write_record(
    folder: RunFolder, config: Config, facts: dict[str, Any], resume: ResumePoint | None
) -> None:
    """Write ``config.yaml`` and ``run.json``; after a change of settings the old ones are renamed.

    Not again if the same job was requeued before it could save a state: then they are the new ones.
    """
    text = config.to_yaml()
    changed = resume is not None and resume.lies_in(folder.path) and resume.changes.of_results
    if changed and not folder.has_config(text):
        for name in ("config.yaml", "run.json"):
            moved = folder.back_up(name)
            if moved is not None:
                _logger.info("%s from before the change kept as %s", name, moved)
    folder.write_config(text)
    folder.write_facts(facts)


def _warn_of_random_masks(network: nn.Cell) -> None:
    """Warn if a resumed run differs from the whole run because the network has random masks."""
    if any(
        isinstance(cell, nn.Dropout) and 0 < (cell.p or 0) < 1
        for _, cell in network.cells_and_names()
    ):
        _logger.warning(
            "the network has dropout or stochastic depth, whose masks MindSpore draws inside "
            "compiled kernels: the run continues, but with other masks than an uninterrupted one"
        )


def _check_space(folder: RunFolder, trainer: Trainer) -> None:
    """Refuse a run folder that can't be written, or lacks space for the epochs that are left."""
    state = weights = 0
    if trainer.position.epoch < trainer.settings.epochs:
        state = trainer.state.nbytes
        weights = sum(p.size * p.itemsize for p in trainer.step.model.get_parameters())
    check_space(folder.path, state, weights * (1 if trainer.ema is None else 2))


def _outcome(summary: Summary) -> dict[str, Any]:
    """Collect what ``run.json`` tells of a run that has ended."""
    outcome: dict[str, Any] = {
        "epochs": summary.epochs,
        "best_top1": summary.best_top1,
        "best_epoch": summary.best_epoch,
        "seconds": round(summary.seconds, 3),
        "compile_seconds": round(summary.compile_seconds, 3),
    }
    if summary.stopped_by:
        outcome["stopped_by"] = signal.Signals(summary.stopped_by).name
    return outcome


def _log_teacher_share(facts: dict[str, Any], summary: Summary) -> None:
    """Say how much of a step's time the teacher took, if the run has trained an epoch with one."""
    speed = summary.last.images_per_second
    if "teacher" in facts and speed:
        teacher = facts["teacher"]
        share = teacher["seconds_per_batch"] * speed / (teacher["batch_size"] * facts["ranks"])
        _logger.info("the teacher took about %.0f %% of the training's time", 100 * share)


def _log_outcome(summary: Summary, folder: RunFolder) -> None:
    _logger.info(
        "%d epoch%s in %s, %.1f s of it compilation",
        summary.epochs,
        "" if summary.epochs == 1 else "s",
        format_duration(summary.seconds),
        summary.compile_seconds,
    )
    if summary.stopped_by:
        _logger.info("everything is saved; the same command with --resume auto continues from here")
    if summary.best_top1 is not None:
        _logger.info("best top1 %.2f %% in epoch %d", summary.best_top1, summary.best_epoch)
    _logger.info("run folder: %s", folder.path)
