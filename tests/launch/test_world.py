"""The launchers' environments, read as a place in the job."""

from __future__ import annotations

import pytest

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.world import (
    World,
    check_distribute,
    detect,
    device_id,
    first_slurm_host,
    job_identity,
    left_over,
    scheduler_address,
    threads_per_rank,
    without_launcher,
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
        ({"MS_ROLE": "MS_WORKER"}, "MS_WORKER_NUM, MS_SCHED_HOST and MS_SCHED_PORT"),
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


def test_cores_are_shared_among_the_ranks_of_a_host():
    assert threads_per_rank(World(0, 8, 0, 2, "openmpi"), cores=48) == 24
    assert threads_per_rank(World(0, 8, 0, 8, "openmpi"), cores=2) == 1


def test_a_process_that_is_no_rank_sees_nothing_of_the_launcher():
    hydra = {"I_MPI_HYDRA_UUID": "1", "HYDI_CONTROL_FD": "9", "HYDRA_PROXY": "x"}
    launchers = {**OPEN_MPI, **INTEL, **SLURM, **hydra, "MS_ROLE": "MS_WORKER"}
    left = without_launcher({**launchers, "PATH": "/bin"})
    assert left == {"PATH": "/bin"}


def eight(rank: int = 3) -> World:
    return World(rank, 8, rank, 8, "openmpi")


def test_a_rank_takes_the_device_of_its_number_on_the_host():
    assert [device_id({}, eight(rank), "Ascend", 8) for rank in (0, 3, 7)] == [0, 3, 7]
    assert device_id({}, World(9, 16, 1, 8, "slurm"), "GPU", 8) == 1
    assert device_id({"DEVICE_ID": "5"}, eight(), "Ascend", 8) == 3


def test_ranks_on_the_cpu_have_no_device_to_choose():
    assert device_id({"DEVICE_ID": "5"}, eight(), "CPU", None) == 0


@pytest.mark.parametrize(
    ("device", "name", "value"),
    [
        ("GPU", "CUDA_VISIBLE_DEVICES", "3"),
        ("GPU", "CUDA_VISIBLE_DEVICES", "GPU-8932f937"),
        ("Ascend", "ASCEND_RT_VISIBLE_DEVICES", "6"),
        ("Ascend", "ASCEND_VISIBLE_DEVICES", "6"),
    ],
)
def test_a_rank_that_was_given_one_device_of_its_own_takes_it(device, name, value):
    assert device_id({name: value}, eight(), device, count=1) == 0
    every = {name: "0,1,2,3", "NVIDIA_VISIBLE_DEVICES": "all", "ASCEND_VISIBLE_DEVICES": "0-7"}
    assert device_id({**every, name: value}, eight(), device, 1, launcher_environ=every) == 0
    with pytest.raises(LaunchError, match=f"8 ranks .* only 1 of .*, {name}={value}: start"):
        device_id({name: value}, eight(), device, count=1, launcher_environ={name: value})


def test_a_single_process_takes_the_device_that_device_id_names():
    assert device_id({}, World(), "Ascend", 8) == 0
    assert device_id({"DEVICE_ID": "3"}, World(), "Ascend", 8) == 3
    # One rank on each of two hosts.
    assert device_id({"DEVICE_ID": "3"}, World(1, 2, 0, 1, "slurm"), "GPU", 4) == 3


@pytest.mark.parametrize(
    ("environ", "world", "count", "told"),
    [
        ({}, eight(), 4, "8 ranks were started on this host, but each can use only 4 of its GPU"),
        ({}, eight(), 1, "can use only 1 of its GPU devices: start at most 1 "),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, eight(), 2, "2 of .*, CUDA_VISIBLE_DEVICES=0,1: start"),
        ({}, World(), 0, "device_target GPU: this process can use 0 GPU devices"),
        ({"DEVICE_ID": "4"}, World(), 4, "DEVICE_ID=4: this process can use 4 GPU devices"),
        ({"DEVICE_ID": "x"}, World(), 4, "DEVICE_ID='x' is not a number"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_both_numbers(environ, world, count, told):
    with pytest.raises(LaunchError, match=told):
        device_id(environ, world, "GPU", count)


def test_what_another_starter_left_behind_is_named_with_what_it_does():
    assert left_over({"PATH": "/bin", "DEVICE_ID": "3"}, World()) == []
    assert left_over(MSRUN | {"RANK_ID": "3", "RANK_SIZE": "8"}, eight()) == []
    (table,) = left_over({"RANK_TABLE_FILE": "/job/hccl.json"}, eight())
    assert table.startswith("RANK_TABLE_FILE=/job/hccl.json is set")
    (single,) = left_over({"RANK_ID": "3", "RANK_SIZE": "8"}, World())
    assert "RANK_ID=3 and RANK_SIZE=8 are set" in single
    (role,) = left_over({**MSRUN, **OPEN_MPI}, World(3, 8, 3, 8, "msrun"))
    assert role.startswith("MS_ROLE=MS_WORKER is set, and OMPI_COMM_WORLD_RANK too")
