"""The teacher of a distillation: loaded, checked, and made ready to answer in the training step.

Teacher and student see the same batch, also after mixup and CutMix: images of the recipe's
``image_resize``, ``in_channels``, ``mean`` and ``std``. A teacher that was trained on images of
another size or normalisation answers worse than it can. Class i has to be the same for both.

The teacher computes in the precision of the student (``amp_level``): in float32 on the CPU by this
package's operators. The loss is computed from its logits in float32 or more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.config import Config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.distillation import Teacher
from mindcv_ghost.engine.parameters import checksum
from mindcv_ghost.errors import CheckpointError, ConfigError, first_line
from mindcv_ghost.launch.processes import stderr_into
from mindcv_ghost.launch.world import World
from mindcv_ghost.registry import create_model_by_name
from mindcv_ghost.run.acceleration import create_compiler, use_native_kernels
from mindcv_ghost.run.learner import adapt_to_device, apply_mixed_precision
from mindcv_ghost.run.parts import graph_settings
from mindcv_ghost.storage.checkpoint import OptionNames, load_weights

__all__ = ["LoadedTeacher", "TeacherCost", "load_teacher", "prepare_teacher"]

_logger = logging.getLogger(__name__)

# Calls are timed until they have taken so long together, or are so many.
_TIMED_SECONDS = 1.0
_TIMED_CALLS = 10
_OPTIONS = OptionNames(
    model="--teacher",
    model_args="--teacher_args",
    ema="--teacher_ema true",
    other_classes="Teacher and student need the same classes.",
)


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher's network with its weights.

    Args:
        network: with the same weights on every rank.
        digest: of the weights and statistics, whichever file they came from; a prefix of a SHA-256.
        bytes_before: resident memory of this process before it was created.
    """

    network: nn.Cell
    digest: str
    bytes_before: int


@dataclass(frozen=True)
class TeacherCost:
    """What a teacher costs, as measured before the training.

    Args:
        seconds: of an answer to one batch of this rank, while all ranks answer; the median.
        bytes: by which this process's resident memory has grown with the teacher; its compiled
            graph is included, a device's memory isn't.
    """

    seconds: float
    bytes: int


def load_teacher(
    config: Config, num_classes: int, collectives: Collectives
) -> LoadedTeacher | None:
    """Create the recipe's teacher and load its weights; every rank has to call it.

    Args:
        config: the run's configuration.
        num_classes: of the data, and of the student.
        collectives: to the other ranks, which get rank 0's weights.

    Returns:
        None if the recipe has no teacher.

    Raises:
        ConfigError: if there is no such network, or it can't be built with its arguments.
        CheckpointError: if its file is missing or damaged, or doesn't fit it exactly.
    """
    distill = config.distill
    if not distill.teacher:
        return None
    before = _resident_bytes()
    try:
        network = create_model_by_name(
            distill.teacher,
            distill.teacher_args,
            num_classes=num_classes,
            in_channels=config.model.in_channels,
            pretrained=False,
        )
        report = load_weights(
            network,
            distill.teacher_ckpt,
            distill.teacher_ema,
            model=distill.teacher,
            options=_OPTIONS,
        )
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"teacher: {error}") from error
    collectives.broadcast_parameters(network)
    digest = checksum(network)[:16]
    _logger.info("teacher: %s: %s, digest %s", distill.teacher_ckpt, report, digest)
    return LoadedTeacher(network, digest, before)


def prepare_teacher(
    loaded: LoadedTeacher,
    config: Config,
    world: World,
    device: str,
    num_classes: int,
    collectives: Collectives,
) -> tuple[Teacher, dict[str, Any]]:
    """Let a teacher answer a batch, and measure what that costs; every rank has to call it.

    Args:
        loaded: its network, which is changed in place.
        config: the run's configuration.
        world: this process among the ranks.
        device: Ascend, GPU or CPU.
        num_classes: of the student.
        collectives: to the other ranks.

    Returns:
        The teacher for the training step, and facts for ``run.json``.

    Raises:
        ConfigError: if it can't compute images of this size, or its answers aren't one finite
            number for each class.
    """
    amp, distill = config.amp, config.distill
    network, parameters = loaded.network, count_parameters(loaded.network)
    adapt_to_device(network, device)
    library = use_native_kernels(
        network, config.system, amp.amp_level, world.local_size, name="teacher"
    )
    teacher = Teacher(apply_mixed_precision(network, amp.amp_level, amp.cast_classes))
    settings = graph_settings(config, library)
    compile_cell = create_compiler(config.system, device, collectives, settings)
    image = _random_batch(config)
    try:
        with _without_call_stacks():
            if config.system.mode == 0:
                compile_cell(teacher, image)
            cost = _measure(teacher, image, num_classes, loaded.bytes_before)
    except (RuntimeError, ValueError, TypeError) as error:
        side = "x".join(map(str, image.shape[1:]))
        raise ConfigError(
            f"teacher: {distill.teacher} can't answer the student's images of {side} (in_channels, "
            f"image_resize): {first_line(error)}"
        ) from error
    facts = {
        "model": distill.teacher,
        "args": distill.teacher_args,
        "checkpoint": distill.teacher_ckpt,
        "ema": distill.teacher_ema,
        "weights": loaded.digest,
        "parameters": parameters,
        "alpha": distill.alpha,
        "temperature": distill.temperature,
        "batch_size": config.dataset.batch_size,
        "seconds_per_batch": round(cost.seconds, 6),
        "memory_bytes": cost.bytes,
    }
    _log(facts)
    return teacher, facts


@contextlib.contextmanager
def _without_call_stacks() -> Iterator[None]:
    """Drop what MindSpore tells of an error beside raising it.

    Before its C++ raises an error of the compiler's, it writes the message with a call stack to
    standard error, and the graph to a file in the working folder, or in MS_OM_PATH (2.8).
    """
    given = os.environ.get("MS_OM_PATH")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        os.environ["MS_OM_PATH"] = given or folder
        try:
            with stderr_into(log):
                yield
        finally:
            if given is None:
                del os.environ["MS_OM_PATH"]
        log.seek(0)
        os.write(2, log.read())  # nothing was wrong: whatever it is, it isn't about an error


def _log(facts: dict[str, Any]) -> None:
    _logger.info(
        "teacher: %s: %s parameters, alpha %g, temperature %g",
        facts["model"],
        format(facts["parameters"], ","),
        facts["alpha"],
        facts["temperature"],
    )
    _logger.info(
        "teacher: %.1f ms for a batch of %d images, %.0f MB of this process's memory (measured)",
        1000 * facts["seconds_per_batch"],
        facts["batch_size"],
        facts["memory_bytes"] / 1e6,
    )


def _random_batch(config: Config) -> ms.Tensor:
    """Make a batch of the shape that the student gets, without touching a seed of MindSpore's."""
    side = config.augment.image_resize
    height, width = (side, side) if isinstance(side, int) else side
    rows = config.dataset.batch_size * max(config.augment.aug_splits, 1)
    shape = (rows, config.model.in_channels, height, width)
    return ms.Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))


def _measure(
    teacher: Teacher, image: ms.Tensor, num_classes: int, bytes_before: int
) -> TeacherCost:
    answers = teacher(image).asnumpy()
    shape = answers.shape
    if shape != (len(image), num_classes):
        raise ValueError(f"its answer to {len(image)} images is of shape {shape}")
    if not np.isfinite(answers).all():
        raise ConfigError(
            "teacher: its answers to random images aren't finite: its weights are damaged, or it "
            "overflows in float16 (amp_level: try O0 or O1)"
        )
    seconds: list[float] = []
    while sum(seconds) < _TIMED_SECONDS and len(seconds) < _TIMED_CALLS:
        started = time.perf_counter()
        teacher(image).asnumpy()
        seconds.append(time.perf_counter() - started)
    return TeacherCost(statistics.median(seconds), max(_resident_bytes() - bytes_before, 0))


def _resident_bytes() -> int:
    """Return the memory that this process occupies; 0 where Linux's ``/proc`` isn't."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
