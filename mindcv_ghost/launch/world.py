"""Who am I? The environment that a launcher leaves, read as ``World(rank, size, ...)``.

Everything here is a pure function of the environment: no MindSpore, no sockets, no processes.
``cluster`` acts on what is decided here.

Which variables count, innermost launcher first:

==========  ====================================================================================
launcher    variables
==========  ====================================================================================
msrun       ``MS_ROLE``, ``MS_WORKER_NUM``, ``MS_NODE_ID``, ``MS_SCHED_HOST``, ``MS_SCHED_PORT``
Open MPI    ``OMPI_COMM_WORLD_RANK``, ``_SIZE``, ``_LOCAL_RANK``, ``_LOCAL_SIZE`` (4 and 5 alike)
MPICH,      ``PMI_RANK``, ``PMI_SIZE``, ``MPI_LOCALRANKID``, ``MPI_LOCALNRANKS``
Intel MPI
Slurm       ``SLURM_STEP_ID``, ``SLURM_PROCID``, ``SLURM_STEP_NUM_TASKS``, ``SLURM_LOCALID``
==========  ====================================================================================

``mpirun`` inside a Slurm allocation is Open MPI's (or MPICH's) job: its helper processes are a
Slurm step of their own, with one task a node, so Slurm's variables would count hosts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from mindcv_ghost.errors import LaunchError

__all__ = [
    "VISIBLE",
    "World",
    "check_distribute",
    "detect",
    "device_id",
    "first_slurm_host",
    "is_scheduler",
    "job_identity",
    "left_over",
    "scheduler_address",
    "threads_per_rank",
    "without_launcher",
]

# msrun doesn't tell its ranks how many share a host, and a rank that has joined its cluster looks
# like one of msrun's: ``cluster`` leaves the number here.
LOCAL_SIZE = "MINDCV_GHOST_LOCAL_SIZE"

# A process that inherits these takes itself for a rank: MindSpore reads Open MPI's at import,
# and msrun's decide its role. The scheduler must see none of them.
_LAUNCHER_PREFIXES = (
    *("OMPI_", "PMIX_", "PRTE_", "SLURM_"),
    *("PMI_", "MPI_LOCAL", "HYD", "I_MPI_"),
)
_LAUNCHER_NAMES = ("MS_ROLE", "MS_NODE_ID", "RANK_ID", "RANK_SIZE", "DEVICE_ID")


VISIBLE = {
    "Ascend": ("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES"),
    "GPU": ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
}
"""What makes a process see only some of a host's devices: the runtime's own variable, and the one
that a container's runtime leaves."""


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
    """Whether this process is a scheduler: msrun runs the user's script for that, too.

    >>> is_scheduler({"MS_ROLE": "MS_SCHED"}), is_scheduler({})
    (True, False)
    """
    return environ.get("MS_ROLE") == "MS_SCHED"


def detect(environ: Mapping[str, str]) -> World:
    """Read this process's place in its job from its environment.

    Raises:
        LaunchError: if the launcher's variables are missing in part, aren't numbers, or
            contradict each other. The text names them and their values.

    >>> detect({})
    World(rank=0, size=1, local_rank=0, local_size=1, launcher='single')
    >>> detect({"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"})
    World(rank=3, size=4, local_rank=1, local_size=2, launcher='pmi')
    """
    if environ.get("MS_ROLE"):
        return _detect_msrun(environ)
    if "OMPI_COMM_WORLD_RANK" in environ or "OMPI_COMM_WORLD_SIZE" in environ:
        prefix = "OMPI_COMM_WORLD_"
        names = [prefix + name for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
        return _world(environ, "openmpi", *names)
    slurm = _slurm_names(environ)
    if "PMI_RANK" in environ or "PMI_SIZE" in environ:
        # srun --mpi=pmi2 sets these as well, without the local ones; then Slurm says the same
        # and more. Under MPICH's mpirun inside a Slurm step they differ, and MPICH's count.
        same = slurm and environ.get("PMI_SIZE") == environ.get(slurm[1])
        if not (same and environ.get("PMI_RANK") == environ.get("SLURM_PROCID")):
            names = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
            return _world(environ, "pmi", *names)
    if slurm:
        return _detect_slurm(environ, *slurm)
    return World()


def _detect_msrun(environ: Mapping[str, str]) -> World:
    role = environ["MS_ROLE"]
    if role == "MS_SCHED":
        raise LaunchError(
            "this process is the scheduler (MS_ROLE=MS_SCHED), not a rank: start the program "
            "through mindcv_ghost.launch.cluster.run_script, as train.py does"
        )
    if role != "MS_WORKER":
        raise LaunchError(f"MS_ROLE={role!r} is neither MS_WORKER nor MS_SCHED")
    missing = [
        name
        for name in ("MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")
        if not environ.get(name)
    ]
    if missing:
        raise LaunchError(
            f"MS_ROLE=MS_WORKER is set, but not {_listed(missing)}: start with msrun, which sets "
            "them all, or unset MS_ROLE"
        )
    if not environ.get("MS_NODE_ID"):
        raise LaunchError(
            "MS_NODE_ID is not set, so this process doesn't know its rank: with several hosts, "
            "give each msrun its --node_rank (0 on the host of --master_addr)"
        )
    rank, size = _number(environ, "MS_NODE_ID"), _number(environ, "MS_WORKER_NUM")
    scheduler_address(environ)
    local_rank = _number(environ, "DEVICE_ID") if environ.get("DEVICE_ID") else rank
    local_size = _number(environ, LOCAL_SIZE) if environ.get(LOCAL_SIZE) else size
    names = ("MS_NODE_ID", "MS_WORKER_NUM", "DEVICE_ID", LOCAL_SIZE)
    return _checked(environ, names, World(rank, size, local_rank, local_size, "msrun"))


def _slurm_names(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variables of a Slurm step's rank and size, or None outside of one.

    A batch script and an allocated shell have SLURM_PROCID=0 and SLURM_NTASKS of what was asked
    for, yet are one process; only ``srun`` gives its tasks SLURM_STEP_ID and
    SLURM_STEP_NUM_TASKS. A shell started by ``srun --pty`` is a step of one task.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if not step.isdigit() or "SLURM_PROCID" not in environ:
        return None
    if "SLURM_STEP_NUM_TASKS" in environ:
        return "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"
    return ("SLURM_PROCID", "SLURM_NTASKS") if "SLURM_NTASKS" in environ else None


def _detect_slurm(environ: Mapping[str, str], rank_name: str, size_name: str) -> World:
    rank, size = _number(environ, rank_name), _number(environ, size_name)
    local_rank = _number(environ, "SLURM_LOCALID") if "SLURM_LOCALID" in environ else rank
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    local_size = size
    if layout:
        counts = _tasks_per_node(layout)
        node = _number(environ, "SLURM_NODEID") if "SLURM_NODEID" in environ else 0
        if not counts or node >= len(counts) or sum(counts) != size:
            raise LaunchError(
                f"Slurm's variables contradict each other: SLURM_STEP_TASKS_PER_NODE={layout!r}, "
                f"SLURM_NODEID={node}, {size_name}={size}"
            )
        local_size = counts[node]
    names = (rank_name, size_name, "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    return _checked(environ, names, World(rank, size, local_rank, local_size, "slurm"))


def _tasks_per_node(layout: str) -> list[int]:
    """Slurm's ``2(x3),1`` as a list; empty if it can't be read.

    >>> _tasks_per_node("2(x3),1")
    [2, 2, 2, 1]
    """
    counts: list[int] = []
    for part in layout.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _world(environ: Mapping[str, str], launcher: str, *names: str) -> World:
    rank, size, local_rank, local_size = names
    missing = [name for name in (rank, size) if not environ.get(name)]
    if missing:
        there = rank if missing == [size] else size
        raise LaunchError(
            f"{there}={environ.get(there)!r} is set, but not {_listed(missing)}: start all "
            f"processes with one mpirun, or unset {there}"
        )
    world = World(
        _number(environ, rank),
        _number(environ, size),
        # Launchers too old to tell the local ones run on one host.
        _number(environ, local_rank if environ.get(local_rank) else rank),
        _number(environ, local_size if environ.get(local_size) else size),
        launcher,
    )
    return _checked(environ, names, world)


def _checked(environ: Mapping[str, str], names: tuple[str, ...], world: World) -> World:
    legal = 0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size
    if not legal or world.local_size > world.size:
        given = ", ".join(f"{n}={environ[n]!r}" for n in dict.fromkeys(names) if n in environ)
        raise LaunchError(f"the launcher's variables contradict each other: {given}")
    return world


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "").strip()
    if not (text.isascii() and text.isdigit()):
        raise LaunchError(
            f"{name}={environ.get(name)!r} is not a number; the launcher sets it to 0, 1, 2, ..."
        )
    return int(text)


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + " and " + names[-1]


def check_distribute(world: World, distribute: bool | None) -> None:
    """Hold the recipe's ``distribute`` against the launcher; None (not set) agrees with any.

    Raises:
        LaunchError: if the recipe says one thing and the launcher did another.
    """
    if distribute is True and world.size == 1:
        raise LaunchError(
            "distribute is true, but this is a single process: start it with a launcher, such as "
            "`mpirun -n 8 python train.py ...`, or leave distribute out (the launcher decides)"
        )
    if distribute is False and world.size > 1:
        raise LaunchError(
            f"distribute is false, but the launcher ({world.launcher}) started {world.size} "
            "processes: start one `python train.py ...`, or leave distribute out (the launcher "
            "decides)"
        )


def device_id(
    environ: Mapping[str, str],
    world: World,
    device: str,
    count: int | None,
    launcher_environ: Mapping[str, str] | None = None,
) -> int:
    """Choose which of a host's devices a rank takes.

    Args:
        environ: ``DEVICE_ID`` counts for a single process, and the variables that hide devices.
        world: this process's place in the job.
        device: Ascend, GPU or CPU.
        count: devices that this process can use; None for the CPU, which ranks share.
        launcher_environ: environment of the launcher, as far as it is known. A variable that it has
            already was not set for this rank alone.

    Raises:
        LaunchError: if there are fewer devices than ranks, or not the one that is asked for.

    >>> device_id({}, World(3, 8, 3, 8, "openmpi"), "Ascend", count=8)
    3
    >>> device_id({"CUDA_VISIBLE_DEVICES": "3"}, World(3, 8, 3, 8, "slurm"), "GPU", count=1)
    0
    """
    if count is None:
        return 0
    chosen = [name for name in VISIBLE[device] if environ.get(name)]
    told = "".join(f", {name}={environ[name]}" for name in chosen)
    if world.local_size == 1:
        number = _number(environ, "DEVICE_ID") if environ.get("DEVICE_ID") else 0
        if number >= count:
            asked = f"DEVICE_ID={number}" if number else f"device_target {device}"
            raise LaunchError(
                f"{asked}: this process can use {count} {device} devices{told}, numbered from 0. "
                "Give a lower DEVICE_ID, or unset it and what hides devices."
            )
        return number
    # srun --gpus-per-task=1 and containers give each rank a device of its own, its only one.
    own = [name for name in chosen if (launcher_environ or {}).get(name) != environ[name]]
    if count == 1 and own:
        return 0
    if count < world.local_size:
        raise LaunchError(
            f"{world.local_size} ranks were started on this host, but each can use only {count} of "
            f"its {device} devices{told}: start at most {count} ranks a host (mpirun -n {count}), "
            "or see that what hides devices gives each rank one of its own."
        )
    return world.local_rank


def left_over(environ: Mapping[str, str], world: World) -> list[str]:
    """Warn of variables that another way of starting has left in the environment.

    Ask before the ranks join: joining sets some of these.

    >>> left_over({"PATH": "/bin"}, World())
    []
    """
    told = []
    for name in ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH"):
        if environ.get(name):
            told.append(
                f"{name}={environ[name]} is set: on Ascend, MindSpore then takes ranks and devices "
                "from that file and not from what started this job. If the file isn't of this very "
                f"job, unset {name}"
            )
    others = [
        name
        for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
        if environ.get(name) and world.launcher == "msrun"
    ]
    if others:
        told.append(
            f"MS_ROLE={environ.get('MS_ROLE')} is set, and {_listed(others)} too: the process "
            "counts as one of MindSpore's own cluster, and what mpirun says is ignored. If mpirun "
            "started it, unset MS_ROLE"
        )
    ranks = [name for name in ("RANK_ID", "RANK_SIZE") if environ.get(name)]
    if ranks and world.launcher == "single":
        given = " and ".join(f"{name}={environ[name]}" for name in ranks)
        told.append(
            f"{given} {'are' if len(ranks) > 1 else 'is'} set, though no launcher started this "
            "process: it trains alone, but MindSpore's own log and data set code believe them. "
            f"Unset {_listed(ranks)}, or start the ranks with mpirun, msrun or srun"
        )
    return told


def threads_per_rank(world: World, cores: int) -> int:
    """A rank's fair share of its host's cores, at least one.

    >>> threads_per_rank(World(0, 8, 0, 8, "openmpi"), cores=2)
    1
    >>> threads_per_rank(World(), cores=2)
    2
    """
    return max(1, cores // world.local_size)


def scheduler_address(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """The scheduler's host and port if the user (or msrun) set them, else None.

    Raises:
        LaunchError: if only one of the two is set, or the port isn't one.
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
    """A text that all ranks of a job share and no other running job has; "" if there is none.

    MPICH gives its ranks no such name: the caller then takes the process that started the ranks.
    """
    if world.launcher == "openmpi":
        # Version 5: prterun-<host>-<pid>@1; version 4: a number, and mpirun's address.
        names = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri")
    elif world.launcher == "slurm":
        names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    elif world.launcher == "msrun":
        names = ("MS_SCHED_HOST", "MS_SCHED_PORT")
    else:
        names = ("PMI_JOBID", "PMI_KVS", "I_MPI_HYDRA_UUID")
    found = [f"{name}={environ[name]}" for name in names if environ.get(name)]
    return f"{world.launcher} {world.size} " + " ".join(found) if found else ""


def first_slurm_host(environ: Mapping[str, str]) -> str:
    """The host of a Slurm step's (or, under mpirun, a job's) rank 0; "" outside of Slurm.

    >>> first_slurm_host({"SLURM_STEP_NODELIST": "gpu[007-009,12],login"})
    'gpu007'
    """
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST") or ""
    if "OMPI_COMM_WORLD_RANK" not in environ and "PMI_RANK" not in environ:
        nodes = environ.get("SLURM_STEP_NODELIST") or nodes
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0]) if first else ""


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what launchers put there, for a process that is no rank."""
    return {
        name: value
        for name, value in environ.items()
        if not (name.startswith(_LAUNCHER_PREFIXES) or name in _LAUNCHER_NAMES)
    }
