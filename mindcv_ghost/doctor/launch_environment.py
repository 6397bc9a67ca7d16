"""Checks of the launcher, of left-over variables, and of the address where ranks join."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, SLOW, CheckResult
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.environment import leftover_variables
from mindcv_ghost.launch.rendezvous import resolve_host
from mindcv_ghost.launch.world import World, scheduler_address

__all__ = ["check_launcher", "check_leftover_variables", "check_scheduler_address"]


def check_launcher(world: World, environ: Mapping[str, str]) -> CheckResult:
    """Name the launcher and the number of ranks.

    Args:
        world: this process's place in the job.
        environ: environment variables, with the launcher's.
    """
    what = "launcher"
    if world.size == 1:
        return CheckResult(what, OK, "none: one process", numbers={"ranks": 1})
    hosts = "one host" if world.one_host else f"several hosts, {world.local_size} of them here"
    text = f"{world.launcher}: {world.size} ranks on {hosts}"
    numbers = {"launcher": world.launcher, "ranks": world.size, "local_ranks": world.local_size}
    try:
        scheduler_address(environ)
    except LaunchError as error:
        return CheckResult(what, BROKEN, f"{text}; {error}", numbers=numbers, blocks=True)
    return CheckResult(what, OK, text, numbers=numbers)


def check_leftover_variables(world: World, environ: Mapping[str, str]) -> CheckResult:
    """Look for variables that another launcher has left in the environment.

    Args:
        world: this process's place in the job.
        environ: environment variables.
    """
    what = "left-over variables"
    found = leftover_variables(environ, world)
    if not found:
        return CheckResult(what, OK, "none")
    return CheckResult(what, SLOW, "; ".join(found), numbers={"found": found})


def check_scheduler_address(environ: Mapping[str, str]) -> CheckResult:
    """Check that MindSpore's scheduler can listen on its address; call it on rank 0's host.

    Args:
        environ: environment variables; ``MS_SCHED_HOST`` and ``MS_SCHED_PORT`` may be set.

    Raises:
        LaunchError: if only one of the two is set, or the host's name can't be resolved.
    """
    what = "scheduler's address"
    if environ.get("MS_ROLE"):
        return CheckResult(what, SKIPPED, "msrun has already started the scheduler")
    given = scheduler_address(environ)
    host, port = given or ("127.0.0.1", 0)
    address = resolve_host(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            if not given:
                remedy = (
                    "no process can listen on the loopback interface: ask this host's administrator"
                )
                return CheckResult(
                    what, BROKEN, f"no free port on {host} ({_reason(error)})", remedy
                )
            text = f"port {port} of {host} isn't available ({_reason(error)})"
            remedy = (
                "set another MS_SCHED_PORT, and set MS_SCHED_HOST to an address of rank 0's host"
            )
            return CheckResult(what, BROKEN, text, remedy)
        port = probe.getsockname()[1]
    origin = "from MS_SCHED_HOST and MS_SCHED_PORT" if given else "a free port on loopback"
    return CheckResult(what, OK, f"{host}:{port} is available ({origin})")


def _reason(error: OSError) -> str:
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error))
