"""How a run's cells are compiled: plainly, or from graphs that an earlier run has kept."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

from mindspore import nn

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import compile_uncached
from mindcv_ghost.engine.graphs.cache import GraphCache, cache_folder
from mindcv_ghost.kernels import use_native
from mindcv_ghost.launch.world import World
from mindcv_ghost.version import __version__

__all__ = ["compiler", "speed_up"]

_logger = logging.getLogger(__name__)

_SECTIONS = ("train", "optimizer", "scheduler", "loss", "amp")


def compiler(
    config: Config,
    device: str,
    collectives: Collectives,
    library: str,
    schedule: Sequence[float] = (),
) -> Callable[..., bool]:
    """Choose ``compile(cell, *inputs) -> found in the cache``.

    Only the CPU has a cache: on other devices nobody has tried whether what it gives is right.

    Args:
        config: what was asked for.
        device: Ascend, GPU or CPU.
        collectives: to the other ranks.
        library: the operators of our own that graphs call, as :func:`speed_up` names them.
        schedule: learning rate of every update.
    """
    if not config.system.compile_cache or config.system.mode != 0 or device != "CPU":
        return compile_uncached
    facts = {
        "versions": compat.installed_versions(),
        "mindcv_ghost": __version__,
        "device": device,
        "jit_level": config.system.jit_level or compat.default_jit_level(device),
        "model": [config.model.model, config.model.model_args, config.model.ghostify],
        "schedule": list(schedule),
        "library": library,
        **{name: dataclasses.asdict(getattr(config, name)) for name in _SECTIONS},
    }
    return GraphCache(cache_folder(), facts, collectives).compile


def speed_up(network: nn.Cell, config: Config, level: str, world: World, device: str) -> str:
    """Let operators of our own compute what they can of a network, and say so in the log.

    Args:
        network: changed in place, before it is compiled.
        config: what was asked for.
        level: mixed precision that the network will run in.
        world: this process among its job's, which share the machine's cores.
        device: Ascend, GPU or CPU.

    Returns:
        What names the operators' code, empty if none is used.
    """
    report = use_native(
        network,
        wanted=config.system.native_kernels,
        device=device,
        graph_mode=config.system.mode == 0,
        amp_level=level,
        local_ranks=world.local_size,
    )
    _logger.info("%s", report)
    return report.library
