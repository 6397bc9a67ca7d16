"""Making MindSpore's cluster of the ranks, and what a rank may ask for while it is part of a job.

MindSpore's own ``init()`` under mpirun fails on the CPU (2.8: "Failed to initialize communication
library on device side"). So on every device the ranks form MindSpore's dynamic cluster, which
works wherever msrun does: rank 0's supervisor starts the scheduler process, and publishes its
address over the failure channel.

A single process may call all of these functions; they then do nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.rendezvous import resolve_host
from mindcv_ghost.launch.supervisor import SupervisorClient
from mindcv_ghost.launch.world import LOCAL_SIZE, World, scheduler_address

__all__ = ["barrier", "deliver_signals", "join", "set_supervisor", "start_scheduler"]

# How long MindSpore may take to end, once all ranks have finished their work. Its own default for
# HCCL to give up on a peer is 120 s (HCCL_CONNECT_TIMEOUT); nobody has measured a teardown here.
_EXIT_SECONDS = {"CPU": 20.0, "GPU": 180.0, "Ascend": 180.0}

_supervisor: SupervisorClient | None = None  # None in a single process


def set_supervisor(client: SupervisorClient) -> None:
    """Make the functions of this module use a supervisor; ``run_script`` calls it, once."""
    global _supervisor
    _supervisor = client


def start_scheduler(world: World) -> None:
    """Have MindSpore's scheduler started, without waiting for it.

    ``join`` does it, too. Call this first if MindSpore is imported in between: the scheduler takes
    as long to start as the import.
    """
    if world.size > 1 and world.launcher != "msrun":  # which starts its own
        _connected().start_scheduler()


def join(world: World, device: str) -> None:
    """Make the ranks one data-parallel MindSpore cluster.

    Imports MindSpore, calls ``mindspore.communication.init()`` and sets the data-parallel
    context with averaged gradients. Every rank has to call this once, after it has set its device
    by ``mindspore.set_device`` (``compat.set_up``): init() keeps a number that was set there, and
    otherwise counts the earlier ranks with the same host name (2.8, ``AssignLocalRank`` and
    ``SetDeviceIDEnvByRuntimeConf`` in ``collective_manager.cc``).

    Args:
        world: this process's place in the job.
        device: Ascend, GPU or CPU, as it was set.

    Raises:
        LaunchError: if this isn't inside ``run_script``.
    """
    if world.size == 1:
        return
    supervisor = _connected()
    start_scheduler(world)
    import mindspore

    given = scheduler_address(os.environ) if world.launcher == "msrun" else None
    host, port = given or supervisor.scheduler_address()
    os.environ.update(
        MS_ROLE="MS_WORKER",
        MS_WORKER_NUM=str(world.size),
        MS_NODE_ID=str(world.rank),
        MS_SCHED_HOST=resolve_host(host),
        MS_SCHED_PORT=str(port),
        RANK_ID=str(world.rank),
        RANK_SIZE=str(world.size),
        DEVICE_ID=str(world.local_rank),
    )
    os.environ[LOCAL_SIZE] = str(world.local_size)
    os.environ.setdefault("MS_TOPO_TIMEOUT", "600")
    supervisor.exit_seconds = _EXIT_SECONDS[device]
    # Ranks that register at the same time need the fewest of MindSpore's half-second retries.
    supervisor.barrier("the cluster")
    with _interrupted_sleeps() if device == "CPU" else contextlib.nullcontext():
        mindspore.communication.init()
    mindspore.set_auto_parallel_context(
        parallel_mode=mindspore.ParallelMode.DATA_PARALLEL,
        gradients_mean=True,
        device_num=world.size,
    )


def barrier(name: str) -> None:
    """Wait until all ranks have come here; needs neither MindSpore nor its cluster."""
    if _supervisor is not None:
        _supervisor.barrier(name)


@contextlib.contextmanager
def deliver_signals() -> Iterator[None]:
    """Have SIGTERM, SIGINT and SIGUSR1 delivered to the rank instead of ending the job.

    The supervisor passes each on once. The rank saves and returns a status from ``main``; all ranks
    have to return then. A second SIGINT ends the job whatever the rank does. If the launcher is
    killed or dies on a signal, the rank gets SIGTERM, and then has limited time (a minute at most).

    Set Python handlers before entering and restore them after leaving. They may run twice:
    Slurm and users signal the rank's process itself, too.
    """
    if _supervisor is not None:
        _supervisor.deliver_signals(True)
    try:
        yield
    finally:
        if _supervisor is not None:
            _supervisor.deliver_signals(False)


def _connected() -> SupervisorClient:
    if _supervisor is None:
        raise LaunchError(
            "several ranks can only join inside a main() that run_script runs: it ends "
            "all ranks when one fails"
        )
    return _supervisor


@contextlib.contextmanager
def _interrupted_sleeps() -> Iterator[None]:
    """Shorten the sleep(3) of MindSpore's CPU collectives while they look for each other.

    The first rank there always has to wait for the others' addresses, and sleeps 3 seconds before
    it looks again, at most 19 times (2.8). A signal ends such a sleep early. Measured with 2
    ranks on 2 cores: 5.5 s to the first AllReduce without this, 3.2 s with it.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)  # system calls other than sleep go on
    signal.setitimer(signal.ITIMER_REAL, 0.7, 0.7)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
