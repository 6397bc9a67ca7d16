"""What a rank's environment variables, cores and device have to be before MindSpore is imported.

``script.run_script`` calls :func:`prepare_environment`. The other functions choose a rank's
device, warn of variables that another launcher left, and make the environment of a process that
is no rank.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from mindcv_ghost.compat import usable_cores
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.processes import msrun_options
from mindcv_ghost.launch.world import LOCAL_SIZE, World, read_number

__all__ = [
    "VISIBLE_DEVICES",
    "device_id",
    "leftover_variables",
    "prepare_environment",
    "set_local_size",
    "threads_per_rank",
    "with_package_path",
    "without_launcher",
]

VISIBLE_DEVICES = {
    "Ascend": ("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES"),
    "GPU": ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
}
"""Variables that restrict a process to some of a host's devices: the device runtime's own, and the
one that a container's runtime sets."""

# Seconds that MindSpore's CPU collectives wait for a rank that is late, and its scheduler for a
# heartbeat. The default of 30 ends a healthy job when one rank compiles or saves for longer. The
# supervisors notice deaths by other means, so this is what Ascend's collectives allow (HCCL: 1836).
_COLLECTIVE_SECONDS = "1800"

# A process that inherits these takes itself for a rank: MindSpore reads Open MPI's at import, and
# msrun's decide its role.
_LAUNCHER_PREFIXES = (
    *("OMPI_", "PMIX_", "PRTE_", "SLURM_"),
    *("PMI_", "MPI_LOCAL", "HYD", "I_MPI_"),
)
_LAUNCHER_NAMES = ("MS_ROLE", "MS_NODE_ID", "RANK_ID", "RANK_SIZE", "DEVICE_ID")


def prepare_environment(world: World) -> None:
    """Set what MindSpore reads at import, unless the user has set it.

    GLOG_v 3 hides MindSpore's warnings; forming the cluster alone prints dozens. With several ranks
    on a host each gets its share of the cores; by default each would start a thread for every core.
    """
    os.environ.setdefault("GLOG_v", "3")
    os.environ.setdefault("MS_NODE_TIMEOUT", _COLLECTIVE_SECONDS)
    if world.size == 1:
        return
    # By default a rank that doesn't find its scheduler waits seconds before it asks again (2.8).
    # On a loaded machine starts took 4 to 35 s without these and, in only 6 tries, 4 to 10 s with
    # them; two slow ones that were traced had lost their time before the cluster formed.
    os.environ.setdefault("MS_RETRY_INTERVAL_LOWER", "0.1")
    os.environ.setdefault("MS_RETRY_INTERVAL_UPPER", "0.3")
    if world.launcher == "openmpi":
        _widen_affinity(world)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_rank(world, usable_cores())))


def _widen_affinity(world: World) -> None:
    """Undo Open MPI's binding where it gives a rank less than its share of the host's cores.

    With two ranks or fewer, mpirun binds each to one core, whatever the host has. That suits
    a simulation, but here MindSpore's threads and the data pipeline would share that core.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_setaffinity") and usable_cores() < cores // world.local_size:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(cores))


def set_local_size() -> None:
    """Find out how many of msrun's ranks share this host, and set it for ``world.detect``."""
    options = msrun_options() if os.environ.get("MS_ROLE") else None
    size = os.environ.get("MS_WORKER_NUM", "")
    if options and size.isdigit():
        os.environ.setdefault(LOCAL_SIZE, str(min(options[0], int(size))))


def threads_per_rank(world: World, cores: int) -> int:
    """Divide a host's cores among its ranks; each gets at least one.

    >>> threads_per_rank(World(0, 8, 0, 8, "openmpi"), cores=2)
    1
    >>> threads_per_rank(World(), cores=2)
    2
    """
    return max(1, cores // world.local_size)


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without the launcher's variables, for a process that is no rank."""
    return {
        name: value
        for name, value in environ.items()
        if not (name.startswith(_LAUNCHER_PREFIXES) or name in _LAUNCHER_NAMES)
    }


def with_package_path(environ: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment so that another Python finds this package, installed or not."""
    home = str(Path(__file__).resolve().parents[2])
    paths = filter(None, [home, environ.get("PYTHONPATH")])
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


def device_id(
    environ: Mapping[str, str],
    world: World,
    device: str,
    count: int | None,
    launcher_environ: Mapping[str, str] | None = None,
) -> int:
    """Choose which of a host's devices a rank takes.

    Args:
        environ: the rank's environment: ``DEVICE_ID`` (which counts for a single process only) and
            the variables that hide devices.
        world: this process's place in the job.
        device: Ascend, GPU or CPU.
        count: devices that this process can use; None for the CPU, which ranks share.
        launcher_environ: the launcher's environment, as far as it is known. A variable that has the
            same value there was not set for this rank alone.

    Returns:
        the device's number, from 0.

    Raises:
        LaunchError: if there are fewer devices than ranks, or DEVICE_ID names none.

    >>> device_id({}, World(3, 8, 3, 8, "openmpi"), "Ascend", count=8)
    3
    >>> device_id({"CUDA_VISIBLE_DEVICES": "3"}, World(3, 8, 3, 8, "slurm"), "GPU", count=1)
    0
    """
    if count is None:
        return 0
    chosen = [name for name in VISIBLE_DEVICES[device] if environ.get(name)]
    given = "".join(f", {name}={environ[name]}" for name in chosen)
    if world.local_size == 1:
        number = read_number(environ, "DEVICE_ID") if environ.get("DEVICE_ID") else 0
        if number >= count:
            asked = f"DEVICE_ID={number}" if number else f"device_target {device}"
            raise LaunchError(
                f"{asked}: this process can use {count} {device} devices{given}, numbered from 0. "
                "Give a lower DEVICE_ID, or unset it and the variables that hide devices."
            )
        return number
    # srun --gpus-per-task=1 and containers give each rank a device of its own, its only one.
    own = [name for name in chosen if (launcher_environ or {}).get(name) != environ[name]]
    if count == 1 and own:
        return 0
    if count < world.local_size:
        raise LaunchError(
            f"{world.local_size} ranks were started on this host, but each can use only {count} of "
            f"its {device} devices{given}: start at most {count} ranks per host (mpirun -n "
            f"{count}), or give each rank a device of its own."
        )
    return world.local_rank


def leftover_variables(environ: Mapping[str, str], world: World) -> list[str]:
    """Warn of variables that another launcher has left in the environment.

    Call it before the ranks join: joining sets some of these variables.

    >>> leftover_variables({"PATH": "/bin"}, World())
    []
    """
    warnings = []
    for name in ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH"):
        if environ.get(name):
            warnings.append(
                f"{name}={environ[name]} is set: on Ascend, MindSpore then takes ranks and devices "
                "from that file and not from the launcher. If the file doesn't belong to this job, "
                f"unset {name}"
            )
    others = [name for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK") if environ.get(name)]
    if others and world.launcher == "msrun":
        warnings.append(
            f"MS_ROLE={environ.get('MS_ROLE')} is set, and {' and '.join(others)} too: this "
            "process is taken for one of msrun's, and mpirun's variables are ignored. If mpirun "
            "started it, unset MS_ROLE"
        )
    ranks = [name for name in ("RANK_ID", "RANK_SIZE") if environ.get(name)]
    if ranks and world.launcher == "single":
        given = " and ".join(f"{name}={environ[name]}" for name in ranks)
        warnings.append(
            f"{given} {'are' if len(ranks) > 1 else 'is'} set, though no launcher started this "
            "process: it trains alone, but MindSpore's log and data set code read them. "
            f"Unset {' and '.join(ranks)}, or start the ranks with mpirun, msrun or srun"
        )
    return warnings
