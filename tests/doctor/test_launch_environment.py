"""Launcher, left-over variables and the scheduler's address are checked without MindSpore."""

from __future__ import annotations

import os
import socket

import pytest

from mindcv_ghost.doctor import launch_environment
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, SLOW
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.world import World


def test_the_launcher_is_named_with_its_ranks():
    result = launch_environment.check_launcher(World(0, 16, 0, 8, "slurm"), {})
    assert result.text == "slurm: 16 ranks on several hosts, 8 of them here"
    half = launch_environment.check_launcher(World(0, 2, 0, 2, "openmpi"), {"MS_SCHED_HOST": "box"})
    assert half.state == BROKEN and "not MS_SCHED_PORT" in half.text


def test_left_over_variables_are_named(monkeypatch):
    found = ["RANK_ID=3 is left"]
    monkeypatch.setattr(launch_environment, "leftover_variables", lambda *_: found)
    result = launch_environment.check_leftover_variables(World(), {})
    assert (result.state, result.text) == (SLOW, "RANK_ID=3 is left")
    monkeypatch.setattr(launch_environment, "leftover_variables", lambda *_: [])
    assert launch_environment.check_leftover_variables(World(), {}).state == OK


def test_a_port_that_is_taken_is_broken_and_a_free_one_ok():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environ = {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": port}
        result = launch_environment.check_scheduler_address(environ)
        assert result.state == BROKEN
        assert f"port {port} of 127.0.0.1 isn't available (Address already in use)" in result.text
        assert "another MS_SCHED_PORT" in result.remedy
    assert launch_environment.check_scheduler_address({}).state == OK


def test_a_host_that_cant_be_resolved_is_a_launch_error():
    environ = {"MS_SCHED_HOST": "no-such-host.invalid", "MS_SCHED_PORT": "8118"}
    with pytest.raises(
        LaunchError, match="no-such-host.invalid isn't a name that this host can resolve"
    ):
        launch_environment.check_scheduler_address(environ)


def test_half_an_address_is_a_launch_error():
    with pytest.raises(LaunchError, match="set both or neither"):
        launch_environment.check_scheduler_address({"MS_SCHED_PORT": "8118"})


def test_the_address_of_msruns_scheduler_isnt_checked():
    assert (
        launch_environment.check_scheduler_address({**os.environ, "MS_ROLE": "MS_WORKER"}).state
        == SKIPPED
    )
