"""How a run's cells are compiled: plainly, or from graphs that an earlier run has kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.graph_cache import GraphCache, cache_folder, compile_plainly
from mindcv_ghost.version import __version__

__all__ = ["compiler"]

_SECTIONS = ("train", "optimizer", "scheduler", "loss", "amp")


def compiler(
    config: Config,
    device: str,
    collectives: Collectives,
    schedule: Sequence[float] = (),
    library: str = "",
) -> Callable[..., bool]:
    """Choose ``compile(cell, *inputs) -> found in the cache``.

    Only the CPU has a cache: on other devices nobody has tried whether what it gives is right.

    Args:
        config: what was asked for.
        device: Ascend, GPU or CPU.
        collectives: to the other ranks.
        schedule: learning rate of every update.
        library: a digest of the operators of our own that graphs call, if they do.
    """
    if not config.system.compile_cache or config.system.mode != 0 or device != "CPU":
        return compile_plainly
    facts = {
        "versions": compat.installed_versions(),
        "mindcv_ghost": __version__,
        "device": device,
        "jit_level": config.system.jit_level or compat.default_jit_level(device),
        "model": [config.model.model, config.model.model_args],
        "schedule": list(schedule),
        "library": library,
        **{name: dataclasses.asdict(getattr(config, name)) for name in _SECTIONS},
    }
    return GraphCache(cache_folder(), facts, collectives).compile
