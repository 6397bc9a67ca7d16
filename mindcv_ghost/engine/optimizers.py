"""MindCV's optimizers and learning-rate schedules, with corrections."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mindspore import nn

from mindcv_ghost.errors import ConfigError

__all__ = ["OptimizerSettings", "create_optimizer", "create_schedule"]

_NUMBERED = re.compile(r"(.*?\.\d+)\.")
# "Unsupported op [Lamb] on CPU" (MindSpore 2.8)
_NOT_ON_CPU = ("lamb",)


@dataclass(frozen=True)
class OptimizerSettings:
    """Arguments of MindCV's ``create_optimizer``, under the same names."""

    opt: str = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    weight_decay_filter: str = "disable"
    layer_decay: float | None = None
    eps: float = 1e-10


def create_optimizer(
    network: nn.Cell, settings: OptimizerSettings, schedule: list[float], device: str
) -> nn.Optimizer:
    """Build MindCV's optimizer for a network.

    Its own loss scale stays 1, because the training step unscales the gradients before clipping. An
    optimizer that MindCV doesn't have branches off here; group its parameters by
    ``weight_decay_filter``, which MindCV otherwise does.

    Args:
        network: its trainable parameters are optimised.
        settings: see :class:`OptimizerSettings`.
        schedule: learning rate of each update.
        device: Ascend, GPU or CPU.

    Raises:
        ConfigError: if the device can't run this optimizer.
    """
    import mindcv

    opt = settings.opt.lower()
    if device == "CPU" and opt in _NOT_ON_CPU:
        raise ConfigError(
            f"opt {opt}: MindSpore has it on Ascend and GPU only; on the CPU use adamw."
        )
    if opt in ("momentum", "nesterov") and settings.nesterov and device == "CPU":
        # MindSpore 2.8's CPU kernel of nn.Momentum ignores use_nesterov: after two steps with equal
        # gradients the weight is 0.71, as without it; with nn.SGD(nesterov=True) and PyTorch 0.539.
        opt = "sgd"
    parameters, weight_decay_filter = network, settings.weight_decay_filter
    if settings.layer_decay is not None:
        parameters = layer_decay_groups(network, settings, settings.layer_decay, schedule)
        weight_decay_filter = "auto"  # then MindCV uses the groups as they are
    with _without_mindcvs_warnings():
        return mindcv.create_optimizer(
            parameters,
            opt=opt,
            lr=schedule,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay_filter=weight_decay_filter,
            eps=settings.eps,
        )


def layer_ids(names: list[str]) -> list[int]:
    """Return the index of the layer that each parameter belongs to, from the stem (0) to the head.

    A layer is the part of a parameter's name up to the first number (``blocks.3``, ``layer1.0``),
    in the order of the network. Parameters before the first layer belong to the stem, later ones
    without a number to the head.

    >>> layer_ids(["cls_token", "blocks.0.w", "blocks.0.b", "blocks.1.w", "norm.gamma", "head.w"])
    [0, 1, 1, 2, 3, 3]
    """
    prefixes = [_NUMBERED.match(name) for name in names]
    blocks = list(dict.fromkeys(match.group(1) for match in prefixes if match))
    ids, seen = [], False
    for match in prefixes:
        seen = seen or match is not None
        if match is not None:
            ids.append(1 + blocks.index(match.group(1)))
        else:
            ids.append(1 + len(blocks) if seen else 0)
    return ids


def layer_decay_groups(
    network: nn.Cell, settings: OptimizerSettings, layer_decay: float, schedule: list[float]
) -> list[dict]:
    """Group parameters for layer-wise learning-rate decay.

    The rate of layer i of n is multiplied by ``layer_decay**(n - i)``. MindCV 0.3's own grouping
    looks for a ``group_matcher`` or ``pretrained_cfg`` of the network, which none of its models
    has: all parameters get into the head's group, and nothing decays. As in MindCV, parameters with
    one dimension and those of ``network.no_weight_decay()`` get no weight decay.

    Args:
        network: its trainable parameters are grouped.
        settings: the weight decay of the other parameters.
        layer_decay: factor between the rates of neighbouring layers.
        schedule: learning rate of the head in each update.
    """
    parameters = network.trainable_params()
    ids = layer_ids([p.name for p in parameters])
    no_decay = set(network.no_weight_decay()) if hasattr(network, "no_weight_decay") else set()
    groups: dict[tuple[int, float], list] = {}
    for layer, p in zip(ids, parameters):
        decay = 0.0 if p.ndim <= 1 or p.name in no_decay else settings.weight_decay
        groups.setdefault((layer, decay), []).append(p)
    head = max(ids)
    # One power for each group: a schedule has hundreds of thousands of rates.
    factors = {layer: layer_decay ** (head - layer) for layer, _ in groups}
    return [
        {
            "params": members,
            "lr": [lr * factors[layer] for lr in schedule],
            "weight_decay": decay,
        }
        for (layer, decay), members in groups.items()
    ]


def create_schedule(updates_per_epoch: int, epochs: int, **settings) -> list[float]:
    """Build MindCV's learning-rate schedule: one value per update.

    MindCV builds it for micro-steps but advances it once per update, so under gradient accumulation
    a run ends in the middle of the decay. Here both count updates.

    Args:
        updates_per_epoch: optimizer updates in an epoch.
        epochs: of the whole run.
        **settings: further arguments of ``mindcv.create_scheduler``.

    Raises:
        ConfigError: if MindCV rejects the settings.
    """
    import mindcv

    try:
        with _without_mindcvs_warnings():
            schedule = mindcv.create_scheduler(updates_per_epoch, num_epochs=epochs, **settings)
    except (ValueError, TypeError, AssertionError, ZeroDivisionError) as error:
        raise ConfigError(
            f"scheduler {settings.get('scheduler')!r} can't be built with these settings: {error}"
        ) from error
    # Some schedules are a value too short or too long, or a number instead of a list.
    if not isinstance(schedule, list):
        schedule = [float(schedule)] * (updates_per_epoch * epochs)
    total = updates_per_epoch * epochs
    schedule = [float(lr) for lr in schedule[:total]]
    return schedule + [schedule[-1]] * (total - len(schedule))


@contextlib.contextmanager
def _without_mindcvs_warnings() -> Iterator[None]:
    """Keep MindCV's factories from warning about settings: ``config/rules.py`` tells of them.

    MindCV 0.3 warns of ``warmup_epochs + decay_epochs > num_epochs`` whatever the scheduler is, a
    constant one too (``scheduler_factory.py``, line 68), and of ``weight_decay_filter`` "auto" even
    where a caller has grouped the parameters himself (``optim_factory.py``, line 244).
    """
    loggers = [logging.getLogger(name) for name in ("mindcv.scheduler", "mindcv.optim")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
