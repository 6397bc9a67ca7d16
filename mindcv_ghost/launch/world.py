"""A process's place in its job, read from the variables that its launcher sets.

All functions here are pure functions of the environment: no MindSpore, no sockets, no processes.
These variables are read, in this order:

==========  ====================================================================================
launcher    variables
==========  ====================================================================================
msrun       ``MS_ROLE``, ``MS_WORKER_NUM``, ``MS_NODE_ID``, ``MS_SCHED_HOST``, ``MS_SCHED_PORT``
Open MPI    ``OMPI_COMM_WORLD_RANK``, ``_SIZE``, ``_LOCAL_RANK``, ``_LOCAL_SIZE`` (4 and 5 alike)
MPICH,      ``PMI_RANK``, ``PMI_SIZE``, ``MPI_LOCALRANKID``, ``MPI_LOCALNRANKS``
Intel MPI
Slurm       ``SLURM_STEP_ID``, ``SLURM_PROCID``, ``SLURM_STEP_NUM_TASKS``, ``SLURM_LOCALID``
==========  ====================================================================================

Slurm's come last: ``mpirun`` inside a Slurm allocation starts its helper processes as a Slurm step
with one task per node, so Slurm's variables would count hosts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.program import program

__all__ = [
    "LOCAL_SIZE",
    "World",
    "check_distribute",
    "detect",
    "first_slurm_host",
    "is_scheduler",
    "job_identity",
    "read_number",
    "scheduler_address",
]

LOCAL_SIZE = "MINDCV_GHOST_LOCAL_SIZE"
"""The variable that holds the ranks of this host: msrun doesn't tell, so this package sets it."""

# Rank, size, local rank, local size.
_OPEN_MPI = (
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
_PMI = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
# What names a job.
_JOB_NAMES = {
    # Version 5: prterun-<host>-<pid>@1; version 4: a number, and mpirun's address.
    "openmpi": ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri"),
    "pmi": ("PMI_JOBID", "PMI_KVS", "I_MPI_HYDRA_UUID"),
    "slurm": ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    "msrun": ("MS_SCHED_HOST", "MS_SCHED_PORT"),
}


@dataclasses.dataclass(frozen=True)
class World:
    """One process's place in its job.

    Args:
        rank: this process, 0 to ``size - 1``.
        size: processes in the job.
        local_rank: this process among those of its host.
        local_size: processes of the job on this host.
        launcher: ``single``, ``msrun``, ``openmpi``, ``pmi`` (MPICH, Intel MPI) or ``slurm``.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = "single"

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.rank == 0

    @property
    def one_host(self) -> bool:
        """Whether every rank of the job is on this host."""
        return self.local_size == self.size


def is_scheduler(environ: Mapping[str, str]) -> bool:
    """Whether this process is msrun's scheduler: msrun runs the user's script for that, too.

    >>> is_scheduler({"MS_ROLE": "MS_SCHED"}), is_scheduler({})
    (True, False)
    """
    return environ.get("MS_ROLE") == "MS_SCHED"


def detect(environ: Mapping[str, str]) -> World:
    """Read this process's place in its job from its environment.

    Raises:
        LaunchError: if some of the launcher's variables are missing, aren't numbers, or
            contradict each other. The text names them and their values.

    >>> detect({})
    World(rank=0, size=1, local_rank=0, local_size=1, launcher='single')
    >>> detect({"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"})
    World(rank=3, size=4, local_rank=1, local_size=2, launcher='pmi')
    """
    if environ.get("MS_ROLE"):
        return _detect_msrun(environ)
    if "OMPI_COMM_WORLD_RANK" in environ or "OMPI_COMM_WORLD_SIZE" in environ:
        return _world(environ, "openmpi", _OPEN_MPI)
    slurm = _slurm_names(environ)
    if "PMI_RANK" in environ or "PMI_SIZE" in environ:
        # srun --mpi=pmi2 sets these, too, but not the local ones; they then agree with Slurm's,
        # which tell more. MPICH's mpirun inside a Slurm step sets others, and these count.
        same = slurm and environ.get("PMI_SIZE") == environ.get(slurm[1])
        if not (same and environ.get("PMI_RANK") == environ.get("SLURM_PROCID")):
            return _world(environ, "pmi", _PMI)
    if slurm:
        return _detect_slurm(environ, *slurm)
    return World()


def _detect_msrun(environ: Mapping[str, str]) -> World:
    role = environ["MS_ROLE"]
    if role == "MS_SCHED":
        raise LaunchError(
            "this process is the scheduler (MS_ROLE=MS_SCHED), not a rank: start the program "
            "through mindcv_ghost.launch.script.run_script, as mindcv-ghost train does"
        )
    if role != "MS_WORKER":
        raise LaunchError(f"MS_ROLE={role!r} is neither MS_WORKER nor MS_SCHED")
    needed = ("MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")
    missing = [name for name in needed if not environ.get(name)]
    if missing:
        raise LaunchError(
            f"MS_ROLE=MS_WORKER is set, but these are not: {', '.join(missing)}. Start with msrun, "
            "which sets them all, or unset MS_ROLE"
        )
    if not environ.get("MS_NODE_ID"):
        raise LaunchError(
            "MS_NODE_ID is not set, so this process doesn't know its rank: with several hosts, "
            "give each msrun its --node_rank (0 on the host of --master_addr)"
        )
    scheduler_address(environ)
    return _world(environ, "msrun", ("MS_NODE_ID", "MS_WORKER_NUM", "DEVICE_ID", LOCAL_SIZE))


def _slurm_names(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variables of a Slurm step's rank and size, or None outside of one.

    A batch script and an allocated shell are one process, though they have SLURM_PROCID=0 and
    the SLURM_NTASKS that was requested. Only ``srun`` gives its tasks SLURM_STEP_ID and
    SLURM_STEP_NUM_TASKS. A shell started by ``srun --pty`` is a step of one task.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if not step.isdigit() or "SLURM_PROCID" not in environ:
        return None
    if "SLURM_STEP_NUM_TASKS" in environ:
        return "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"
    return ("SLURM_PROCID", "SLURM_NTASKS") if "SLURM_NTASKS" in environ else None


def _detect_slurm(environ: Mapping[str, str], rank_name: str, size_name: str) -> World:
    names = (rank_name, size_name, "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE")
    if not layout:
        return _world(environ, "slurm", names)
    counts, size = _tasks_per_node(layout), read_number(environ, size_name)
    node = read_number(environ, "SLURM_NODEID") if "SLURM_NODEID" in environ else 0
    if node >= len(counts) or sum(counts) != size:
        raise LaunchError(
            f"Slurm's variables contradict each other: SLURM_STEP_TASKS_PER_NODE={layout!r}, "
            f"SLURM_NODEID={node}, {size_name}={size}"
        )
    return _world(environ, "slurm", names, local_size=counts[node])


def _tasks_per_node(layout: str) -> list[int]:
    """Read Slurm's ``2(x3),1`` as a list; empty if it can't be read.

    >>> _tasks_per_node("2(x3),1")
    [2, 2, 2, 1]
    """
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", layout)
    return [int(count) for count, times in parts for _ in range(int(times or 1))]


def _world(
    environ: Mapping[str, str],
    launcher: str,
    names: tuple[str, str, str, str],
    local_size: int | None = None,
) -> World:
    """Read rank, size, local rank and local size from the variables that ``names`` gives."""
    present = [name for name in names[:2] if environ.get(name)]
    if len(present) == 1:
        (missing,) = set(names[:2]) - set(present)
        raise LaunchError(
            f"{present[0]}={environ[present[0]]!r} is set, but not {missing}: start all processes "
            f"with one mpirun, or unset {present[0]}"
        )
    # A launcher that gives no local numbers (old MPICH, msrun) runs all ranks on one host.
    rank, size, local_rank, local = (
        name if environ.get(name) else instead for name, instead in zip(names, names[:2] * 2)
    )
    if local_size is None:
        local_size = read_number(environ, local)
    world = World(
        read_number(environ, rank),
        read_number(environ, size),
        read_number(environ, local_rank),
        local_size,
        launcher,
    )
    if not (world.rank < world.size and world.local_rank < local_size <= world.size):
        given = ", ".join(f"{n}={environ[n]!r}" for n in dict.fromkeys(names) if n in environ)
        raise LaunchError(f"the launcher's variables contradict each other: {given}")
    return world


def read_number(environ: Mapping[str, str], name: str) -> int:
    """Read a variable that must be 0, 1, 2, ...

    Raises:
        LaunchError: if it is something else, or not set.
    """
    text = environ.get(name, "").strip()
    if not (text.isascii() and text.isdigit()):
        raise LaunchError(
            f"{name}={environ.get(name)!r} is not a number; the launcher sets it to 0, 1, 2, ..."
        )
    return int(text)


def check_distribute(world: World, distribute: bool | None) -> None:
    """Compare the recipe's ``distribute`` with the launcher; None (not set) fits any.

    Raises:
        LaunchError: if they contradict each other.
    """
    if distribute is True and world.size == 1:
        raise LaunchError(
            "distribute is true, but this is a single process: start it with a launcher, such as "
            f"`mpirun -n 8 {program('train')} ...`, or leave distribute out (the launcher decides)"
        )
    if distribute is False and world.size > 1:
        raise LaunchError(
            f"distribute is false, but the launcher ({world.launcher}) started {world.size} "
            f"processes: start one `{program('train')} ...`, or leave distribute out (the launcher "
            "decides)"
        )


def scheduler_address(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Read the scheduler's host and port if the user or msrun set them, else None.

    Raises:
        LaunchError: if only one of the two is set, or the port isn't between 1024 and 65534.
    """
    host, port = environ.get("MS_SCHED_HOST", ""), environ.get("MS_SCHED_PORT", "")
    if not host and not port:
        return None
    if not host or not port:
        there, other = ("MS_SCHED_HOST", "MS_SCHED_PORT")[:: 1 if host else -1]
        raise LaunchError(f"{there}={host or port} is set, but not {other}: set both or neither")
    if not (port.isascii() and port.isdigit() and 1024 <= int(port) <= 65534):
        raise LaunchError(f"MS_SCHED_PORT={port!r} is not a port between 1024 and 65534")
    return host, int(port)


def job_identity(environ: Mapping[str, str], world: World) -> str:
    """Name the job: all its ranks get the same text, and no other running job does.

    Returns:
        the name, or "" where the launcher gives none (MPICH): the caller then identifies the job
        by the process that started the ranks.
    """
    names = _JOB_NAMES.get(world.launcher, ())
    found = [f"{name}={environ[name]}" for name in names if environ.get(name)]
    return f"{world.launcher} {world.size} " + " ".join(found) if found else ""


def first_slurm_host(environ: Mapping[str, str]) -> str:
    """Name the host of a Slurm step's (or, under mpirun, a job's) rank 0; "" outside of Slurm.

    >>> first_slurm_host({"SLURM_STEP_NODELIST": "gpu[007-009,12],login"})
    'gpu007'
    """
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST") or ""
    if "OMPI_COMM_WORLD_RANK" not in environ and "PMI_RANK" not in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or nodes
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0]) if first else ""
