"""Where this process is among others: what the launcher says, what others left, where they meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, SLOW, Finding
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.environment import leftover_variables
from mindcv_ghost.launch.rendezvous import resolve_host
from mindcv_ghost.launch.world import World, scheduler_address

__all__ = ["launcher", "meeting", "variables"]


def launcher(world: World, environ: Mapping[str, str]) -> Finding:
    """Say which launcher started this process, and as what."""
    what = "launcher"
    if world.size == 1:
        return Finding(what, OK, "none: one process", numbers={"ranks": 1})
    hosts = "one host" if world.one_host else f"several hosts, {world.local_size} of them here"
    text = f"{world.launcher}: {world.size} ranks on {hosts}"
    numbers = {"launcher": world.launcher, "ranks": world.size, "local_ranks": world.local_size}
    try:
        scheduler_address(environ)
    except LaunchError as error:
        return Finding(what, BROKEN, f"{text}; {error}", numbers=numbers, blocks=True)
    return Finding(what, OK, text, numbers=numbers)


def variables(world: World, environ: Mapping[str, str]) -> Finding:
    """Look for variables that another way of starting has left."""
    what = "left-over variables"
    found = leftover_variables(environ, world)
    if not found:
        return Finding(what, OK, "none")
    return Finding(what, SLOW, "; ".join(found), numbers={"found": found})


def meeting(world: World, environ: Mapping[str, str]) -> Finding:
    """See whether rank 0 can have the address at which MindSpore's ranks meet.

    Args:
        world: this process among its job's, on rank 0's host.
        environ: what the launcher left.
    """
    what = "scheduler's address"
    if environ.get("MS_ROLE"):
        return Finding(what, SKIPPED, "msrun has started the scheduler already")
    given = scheduler_address(environ)
    host, port = given or ("127.0.0.1", 0)
    address = resolve_host(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen()
        except OSError as error:
            if not given:
                remedy = "no process can listen on the loopback interface: ask who runs this host"
                return Finding(what, BROKEN, f"no free port on {host} ({_reason(error)})", remedy)
            return Finding(
                *(what, BROKEN, f"port {port} of {host} can't be had ({_reason(error)})"),
                "export another MS_SCHED_PORT, and as MS_SCHED_HOST an address of rank 0's host",
            )
        port = trial.getsockname()[1]
    said = "as MS_SCHED_HOST and MS_SCHED_PORT say" if given else "a free port on loopback"
    return Finding(what, OK, f"{host}:{port} can be had ({said})")


def _reason(error: OSError) -> str:
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))
