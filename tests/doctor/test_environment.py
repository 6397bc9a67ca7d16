"""What a host lacks is found without MindSpore, and each finding says what to do."""

from __future__ import annotations

import os
import socket
from collections import namedtuple

import pytest

from mindcv_ghost.doctor import environment, places
from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, SLOW
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.world import World

GOOD = {"python": "3.11.7", "mindspore": "2.8.0", "mindcv": "0.3.0"} | {
    "numpy": "1.26.4",
    "pillow": "11.0.0",
}
Usage = namedtuple("Usage", "total used free")
MB = 1 << 20


def test_the_releases_that_are_tested_are_ok():
    found = environment.versions(GOOD, "CPU")
    assert (found.state, found.remedy) == (OK, "")
    assert "MindSpore 2.8.0" in found.text


@pytest.mark.parametrize(
    ("changed", "told", "remedy"),
    [
        ({"mindspore": ""}, "MindSpore isn't installed", "pip install 'mindspore==2.8.0'"),
        ({"mindcv": ""}, "MindCV isn't installed", "pip install mindcv==0.3.0"),
        ({"mindcv": "0.5.0"}, "MindCV 0.5.0 doesn't fit (0.3.0 is needed)", "mindcv==0.3.0"),
        ({"numpy": "2.1.0"}, "NumPy 2.1.0 doesn't fit (1.22 or later, below 2 needed)", "<2"),
        ({"python": "3.13.1"}, "Python 3.13.1 (3.9 to 3.12 are supported)", "python3.11"),
        ({"pillow": "9.1.1"}, "Pillow 9.1.1 doesn't fit", "pillow>=9.2"),
    ],
)
def test_a_release_that_is_missing_or_wrong_is_broken(changed, told, remedy):
    found = environment.versions({**GOOD, **changed}, "auto")
    assert found.state == BROKEN
    assert told in found.text and remedy in found.remedy


def test_a_mindspore_that_is_slow_here_or_untested_is_slow():
    assert environment.versions({**GOOD, "mindspore": "2.9.0"}, "CPU").state == SLOW
    assert "50 times slower" in environment.versions({**GOOD, "mindspore": "2.9.0"}, "CPU").text
    assert "is tested with" in environment.versions({**GOOD, "mindspore": "2.9.0"}, "Ascend").text


def test_all_that_is_missing_is_told_at_once():
    found = environment.versions(dict.fromkeys(GOOD, "") | {"python": "3.11.7"}, "CPU")
    assert found.text.count("isn't installed") == 4


def test_missing_distributions_are_found_without_loading_any(monkeypatch):
    def missing(name):
        raise environment.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.metadata, "version", missing)
    assert environment.installed()["mindspore"] == ""


def test_a_compiler_builds_what_the_package_needs():
    found = environment.compiler("CPU")
    assert found.state == OK and "operators and image loader" in found.text


def test_without_a_compiler_things_only_take_longer(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = environment.compiler("Ascend")
    assert found.state == SLOW
    assert "there is no compiler (no-such-compiler)" in found.text
    assert "image loader" in found.text and "operators" not in found.text
    assert "install a C++17 compiler" in found.remedy


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    bad = tmp_path / "c++"
    bad.write_text("#!/bin/sh\necho 'x.cc:1: error: no C++17 here' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    found = environment.compiler("CPU")
    assert found.state == SLOW and "x.cc:1: error: no C++17 here" in found.text


def meminfo(tmp_path, free_gb: float) -> str:
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: 33554432 kB\nMemAvailable: {int(free_gb * 1e6 / 1.024)} kB\n")
    return str(path)


@pytest.mark.parametrize(("free", "state"), [(20, OK), (5, SLOW), (1, BROKEN)])
def test_memory_is_shared_out_among_ranks(tmp_path, free, state):
    world = World(0, 2, 0, 2, "openmpi")
    found = environment.cores(world, there=8, meminfo=meminfo(tmp_path, free))
    assert found.state == state
    assert found.numbers["threads"] == 4 and f"{free:.1f} of" in found.text


def test_more_ranks_than_cores_are_slow(tmp_path):
    world = World(0, 8, 0, 8, "openmpi")
    found = environment.cores(world, there=2, meminfo=meminfo(tmp_path, 64))
    assert found.state == SLOW and "at most 2 ranks" in found.remedy


@pytest.mark.parametrize(("free", "state"), [(200, OK), (100, SLOW), (20, BROKEN)])
def test_dev_shm_is_measured_for_all_ranks_of_a_host(tmp_path, free, state):
    world = World(0, 2, 0, 2, "openmpi")
    usage = Usage(512 * MB, 0, free * MB)
    found = environment.shared_memory(world, str(tmp_path), lambda _: usage)
    assert found.state == state
    assert found.numbers["free_bytes"] == free * MB
    assert ("--shm-size" in found.remedy) == (state != OK)


def test_a_missing_dev_shm_is_told(tmp_path):
    found = environment.shared_memory(World(), str(tmp_path / "none"))
    assert found.state == SLOW and "there is no" in found.text


def test_the_launcher_is_named_with_its_ranks():
    found = places.launcher(World(0, 16, 0, 8, "slurm"), {})
    assert found.text == "slurm: 16 ranks on several hosts, 8 of them here"
    half = places.launcher(World(0, 2, 0, 2, "openmpi"), {"MS_SCHED_HOST": "box"})
    assert half.state == BROKEN and "not MS_SCHED_PORT" in half.text


def test_left_over_variables_are_told(monkeypatch):
    monkeypatch.setattr(places, "leftover_variables", lambda *_: ["RANK_ID=3 is left"])
    found = places.variables(World(), {})
    assert (found.state, found.text) == (SLOW, "RANK_ID=3 is left")
    monkeypatch.setattr(places, "leftover_variables", lambda *_: [])
    assert places.variables(World(), {}).state == OK


def test_a_port_that_is_taken_is_broken_and_a_free_one_ok():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environ = {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": port}
        found = places.meeting(World(), environ)
        assert found.state == BROKEN
        assert f"port {port} of 127.0.0.1 can't be had (Address already in use)" in found.text
        assert "another MS_SCHED_PORT" in found.remedy
    assert places.meeting(World(), {}).state == OK


def test_a_host_that_nobody_knows_is_an_error_for_users():
    environ = {"MS_SCHED_HOST": "no-such-host.invalid", "MS_SCHED_PORT": "8118"}
    with pytest.raises(LaunchError, match="no-such-host.invalid isn't a name"):
        places.meeting(World(), environ)


def test_half_an_address_is_an_error_for_users():
    with pytest.raises(LaunchError, match="set both or neither"):
        places.meeting(World(), {"MS_SCHED_PORT": "8118"})


def test_msruns_scheduler_is_left_alone():
    assert places.meeting(World(), {**os.environ, "MS_ROLE": "MS_WORKER"}).state == SKIPPED
