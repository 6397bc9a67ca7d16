"""The launchers' environments, read as a place in the job."""

from __future__ import annotations

import pytest

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.world import (
    World,
    check_distribute,
    detect,
    first_slurm_host,
    job_identity,
    scheduler_address,
)

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
INTEL = {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
SLURM_BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
SLURM = {
    **SLURM_BATCH,
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),4",
}
MSRUN = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "8",
    "MS_NODE_ID": "3",
    "MS_SCHED_HOST": "127.0.0.1",
    "MS_SCHED_PORT": "8118",
}


def test_no_launcher_is_a_single_process():
    assert detect({}) == World(0, 1, 0, 1, "single")


@pytest.mark.parametrize(
    ("environ", "world"),
    [
        (OPEN_MPI, World(3, 8, 1, 4, "openmpi")),
        (INTEL, World(3, 8, 1, 4, "pmi")),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, World(1, 2, 1, 2, "pmi")),
        (SLURM, World(3, 8, 1, 2, "slurm")),
        (MSRUN, World(3, 8, 3, 8, "msrun")),
    ],
    ids=["openmpi", "intel", "mpich", "srun", "msrun"],
)
def test_every_launcher_is_recognised(environ, world):
    assert detect(environ) == world


def test_a_batch_script_without_srun_is_one_process_whatever_was_asked_for():
    assert detect(SLURM_BATCH).size == 1
    assert detect({**SLURM_BATCH, "SLURM_STEP_ID": "batch"}).size == 1


def test_mpirun_inside_a_slurm_job_counts_and_not_slurm():
    one_a_node = {**SLURM, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert detect({**one_a_node, **OPEN_MPI}) == World(3, 8, 1, 4, "openmpi")
    assert detect({**one_a_node, **INTEL}) == World(3, 8, 1, 4, "pmi")


def test_srun_with_pmi_is_slurm_s():
    assert detect({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "8"}).launcher == "slurm"


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "x"}, "OMPI_COMM_WORLD_RANK='x' is not a number"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "8"}, "contradict each other"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "but not OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2"}, "but not PMI_RANK"),
        ({**MSRUN, "MS_NODE_ID": ""}, "MS_NODE_ID is not set"),
        ({"MS_ROLE": "MS_WORKER"}, "MS_WORKER_NUM, MS_SCHED_HOST, MS_SCHED_PORT"),
        ({**MSRUN, "MS_ROLE": "MS_PSERVER"}, "neither MS_WORKER nor MS_SCHED"),
        ({**MSRUN, "MS_SCHED_PORT": "99999"}, "MS_SCHED_PORT='99999' is not a port"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1"}, "SLURM_STEP_TASKS_PER_NODE='1'"),
    ],
)
def test_a_broken_environment_is_named(environ, told):
    with pytest.raises(LaunchError, match=told.replace("(", r"\(")):
        detect(environ)


def test_distribute_must_not_contradict_the_launcher():
    several = World(0, 2, 0, 2, "openmpi")
    for distribute in (None, True):
        check_distribute(several, distribute)
    for distribute in (None, False):
        check_distribute(World(), distribute)
    with pytest.raises(LaunchError, match="distribute is true, but this is a single process"):
        check_distribute(World(), True)
    with pytest.raises(LaunchError, match=r"the launcher \(openmpi\) started 2 processes"):
        check_distribute(several, False)


def test_two_jobs_have_two_identities_and_the_ranks_of_one_share_theirs():
    world = World(0, 2, 0, 2, "openmpi")
    first = {"PMIX_NAMESPACE": "prterun-host-11@1"}
    assert job_identity(first, world) == job_identity(
        {**first, "X": "1"}, World(1, 2, 1, 2, "openmpi")
    )
    assert job_identity(first, world) != job_identity(
        {"PMIX_NAMESPACE": "prterun-host-12@1"}, world
    )
    intel = World(0, 2, 0, 2, "pmi")
    assert job_identity({}, intel) == ""
    assert job_identity({"I_MPI_HYDRA_UUID": "1"}, intel) != job_identity(
        {"I_MPI_HYDRA_UUID": "2"}, intel
    )


def test_the_scheduler_s_address_is_both_or_neither():
    assert scheduler_address({}) is None
    given = {"MS_SCHED_HOST": "10.0.0.1", "MS_SCHED_PORT": "8118"}
    assert scheduler_address(given) == ("10.0.0.1", 8118)
    with pytest.raises(LaunchError, match="but not MS_SCHED_PORT"):
        scheduler_address({"MS_SCHED_HOST": "10.0.0.1"})


def test_slurm_s_first_host_is_read_from_its_node_list():
    assert first_slurm_host({"SLURM_STEP_NODELIST": "a[03,05-09],b1"}) == "a03"
    assert first_slurm_host({"SLURM_JOB_NODELIST": "login1"}) == "login1"
    assert first_slurm_host({}) == ""
