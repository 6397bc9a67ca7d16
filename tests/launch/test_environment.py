"""A rank's cores, device and environment variables."""

from __future__ import annotations

import pytest

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.environment import (
    device_id,
    leftover_variables,
    threads_per_rank,
    without_launcher,
)
from mindcv_ghost.launch.world import World, detect

from .test_world import INTEL, MSRUN, OPEN_MPI, SLURM


def test_cores_are_shared_among_the_ranks_of_a_host():
    assert threads_per_rank(World(0, 8, 0, 2, "openmpi"), cores=48) == 24
    assert threads_per_rank(World(0, 8, 0, 8, "openmpi"), cores=2) == 1


@pytest.mark.parametrize("environ", [OPEN_MPI, INTEL, SLURM, MSRUN])
def test_without_its_launcher_s_variables_a_process_is_a_single_one(environ):
    assert detect(environ).size > 1
    assert detect(without_launcher(environ)) == World()


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


def test_variables_left_by_another_launcher_are_named_with_their_effect():
    assert leftover_variables({"PATH": "/bin", "DEVICE_ID": "3"}, World()) == []
    assert leftover_variables(MSRUN | {"RANK_ID": "3", "RANK_SIZE": "8"}, eight()) == []
    (table,) = leftover_variables({"RANK_TABLE_FILE": "/job/hccl.json"}, eight())
    assert table.startswith("RANK_TABLE_FILE=/job/hccl.json is set")
    (single,) = leftover_variables({"RANK_ID": "3", "RANK_SIZE": "8"}, World())
    assert "RANK_ID=3 and RANK_SIZE=8 are set" in single
    (role,) = leftover_variables({**MSRUN, **OPEN_MPI}, World(3, 8, 3, 8, "msrun"))
    assert role.startswith("MS_ROLE=MS_WORKER is set, and OMPI_COMM_WORLD_RANK too")
