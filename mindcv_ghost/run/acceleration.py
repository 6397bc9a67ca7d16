"""What makes a run faster without changing what it computes.

These are native kernels, gradients that are summed in shared memory, and kept graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mindspore import nn

from mindcv_ghost import compat
from mindcv_ghost.config.keys import SystemConfig
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import Compile, compile_uncached
from mindcv_ghost.engine.graphs.cache import GraphCache, graph_folder
from mindcv_ghost.kernels.acceleration import accelerate
from mindcv_ghost.kernels.all_reduce import AllReduce, share_memory
from mindcv_ghost.kernels.install import Report
from mindcv_ghost.kernels.library import threads_for
from mindcv_ghost.launch.world import World
from mindcv_ghost.version import __version__

__all__ = ["create_compiler", "create_reducers", "use_native_kernels"]

_logger = logging.getLogger(__name__)


def create_compiler(
    system: SystemConfig, device: str, collectives: Collectives, settings: Mapping[str, Any]
) -> Compile:
    """Create the function that compiles the run's cells.

    Compiled graphs are kept for the next start on the CPU only: on other devices it is untested
    whether a graph that was read back computes the same.

    Args:
        system: the recipe's section.
        device: Ascend, GPU or CPU.
        collectives: to the other ranks.
        settings: everything else of the recipe that the graphs depend on; JSON can hold it. A graph
            is reused only if they are equal.

    Returns:
        ``compile(cell, *inputs) -> bool``: whether the graph came from the cache.
    """
    if not system.compile_cache or system.mode != 0 or device != "CPU":
        return compile_uncached
    facts = {
        "versions": compat.installed_versions(),
        "mindcv_ghost": __version__,
        "device": device,
        "jit_level": system.jit_level or compat.default_jit_level(device),
        **settings,
    }
    return GraphCache(graph_folder(), facts, collectives).compile


def use_native_kernels(
    network: nn.Cell, system: SystemConfig, amp_level: str, local_ranks: int, name: str = ""
) -> str:
    """Accelerate a network if the recipe allows it, and log the result.

    Args:
        network: changed in place.
        system: the recipe's section.
        amp_level: mixed precision, which the network is given later.
        local_ranks: processes on this host, which share its cores.
        name: what the log calls the network, if there is more than one.

    Returns:
        What identifies the kernels' library (``Report.library``); "" if none is used.
    """
    if not system.native_kernels:
        report = Report.stock(network, "native_kernels is false")
    elif amp_level != "O0":
        reason = f"native operators are for float32, not amp level {amp_level}"
        report = Report.stock(network, reason)
    else:
        report = accelerate(network, threads=threads_for(local_ranks))
    _logger.info("%s%s", f"{name}: " if name else "", report)
    return report.library


def create_reducers(
    library: str, world: World, device: str, collectives: Collectives
) -> tuple[nn.Cell, nn.Cell] | None:
    """Create the cells that average gradients and sum a tensor in memory that the ranks share.

    Every rank has to call it. On several hosts MindSpore's all-reduce does all of it: a sum within
    each host first would have other bits.

    Args:
        library: what identifies the kernels' library; "" if this rank uses none.
        world: this process among the ranks.
        device: Ascend, GPU or CPU.
        collectives: to the other ranks.

    Returns:
        The cells; None if MindSpore's all-reduce has to do it.
    """
    if world.size == 1 or not world.one_host or device != "CPU":
        return None
    reason = share_memory(library, world.rank, world.size, collectives.gather)
    if not reason:
        return AllReduce(library, 1 / world.size), AllReduce(library)
    if library:
        _logger.info("gradients are summed by MindSpore's slower all-reduce: %s", reason)
    return None
