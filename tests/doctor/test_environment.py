"""Missing parts of a host are found without MindSpore, and each result has a remedy."""

from __future__ import annotations

from collections import namedtuple

import pytest

from mindcv_ghost.doctor import environment
from mindcv_ghost.doctor.report import BROKEN, OK, SLOW
from mindcv_ghost.launch.world import World

GOOD = {"python": "3.11.7", "mindspore": "2.8.0", "mindcv": "0.3.0"} | {
    "numpy": "1.26.4",
    "pillow": "11.0.0",
}
Usage = namedtuple("Usage", "total used free")
MB = 1 << 20


def test_the_tested_releases_are_ok():
    result = environment.check_versions(GOOD, "CPU")
    assert (result.state, result.remedy) == (OK, "")
    assert "MindSpore 2.8.0" in result.text


@pytest.mark.parametrize(
    ("changed", "text", "remedy"),
    [
        ({"mindspore": ""}, "MindSpore isn't installed", "pip install mindspore==2.8.0"),
        ({"mindcv": ""}, "MindCV isn't installed", "pip install mindcv==0.3.0"),
        (
            {"mindcv": "0.2.2"},
            "MindCV 0.2.2 is too old: 0.3 or later, below",
            "mindcv==0.3.0",
        ),
        ({"numpy": "2.1.0"}, "MindSpore 2.8.0 needs one below 2", "numpy<2"),
        ({"python": "3.8.1"}, "Python 3.8.1 is too old: 3.9 or later, below 3.13", "python3.11"),
        ({"pillow": "9.1.1"}, "Pillow 9.1.1 is too old", "pillow>=9.2"),
        ({"mindspore": "2.4.10"}, "(it lacks mindspore.set_device, mindspore.device_con", "2.8.0"),
    ],
)
def test_a_missing_or_unsupported_release_is_broken(changed, text, remedy):
    result = environment.check_versions({**GOOD, **changed}, "auto")
    assert result.state == BROKEN
    assert text in result.text and remedy in result.remedy


def test_a_mindspore_that_is_slow_on_the_cpu_or_untested_is_slow():
    slow = environment.check_versions({**GOOD, "mindspore": "2.9.0"}, "CPU")
    assert slow.state == SLOW and "50 times slower" in slow.text
    assert environment.check_versions({**GOOD, "mindspore": "2.9.0"}, "Ascend").state == OK
    untested = environment.check_versions({**GOOD, "mindspore": "2.11.0"}, "Ascend")
    assert untested.state == SLOW and "newer than what this package was tested" in untested.text


def test_all_missing_packages_are_named_at_once():
    result = environment.check_versions(dict.fromkeys(GOOD, "") | {"python": "3.11.7"}, "CPU")
    assert result.text.count("isn't installed") == 4


def test_the_compiler_builds_the_packages_kind_of_code():
    result = environment.check_compiler("CPU")
    assert result.state == OK and "operators and image loader" in result.text


def test_no_compiler_is_needed_where_the_installation_brings_the_libraries(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(environment, "prebuilt_level", lambda: "x86-64-v3")
    result = environment.check_compiler("CPU")
    assert (result.state, result.remedy) == (OK, "")
    assert result.text.startswith("not needed; the installation brings its operators and image")
    assert result.text.endswith(" for x86-64-v3")


def test_a_missing_compiler_is_slow_and_not_broken(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = environment.check_compiler("Ascend")
    assert result.state == SLOW
    assert "CXX is 'no-such-compiler'" in result.text
    assert "image loader" in result.text and "operators" not in result.text
    assert "install a C++17 compiler" in result.remedy


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    bad = tmp_path / "c++"
    bad.write_text("#!/bin/sh\necho 'x.cc:1: error: no C++17 here' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    result = environment.check_compiler("CPU")
    assert result.state == SLOW and "x.cc:1: error: no C++17 here" in result.text


def meminfo(tmp_path, free_gb: float) -> str:
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: 33554432 kB\nMemAvailable: {int(free_gb * 1e6 / 1.024)} kB\n")
    return str(path)


@pytest.mark.parametrize(("free", "state"), [(20, OK), (5, SLOW), (1, BROKEN)])
def test_memory_and_threads_are_divided_among_ranks(tmp_path, free, state):
    world = World(0, 2, 0, 2, "openmpi")
    result = environment.check_cores_and_memory(world, cores=8, meminfo=meminfo(tmp_path, free))
    assert result.state == state
    assert result.numbers["threads"] == 4 and f"{free:.1f} of" in result.text


def test_more_ranks_than_cores_are_slow(tmp_path):
    world = World(0, 8, 0, 8, "openmpi")
    result = environment.check_cores_and_memory(world, cores=2, meminfo=meminfo(tmp_path, 64))
    assert result.state == SLOW and "at most 2 ranks" in result.remedy


@pytest.mark.parametrize(("free", "state"), [(200, OK), (100, SLOW), (20, BROKEN)])
def test_dev_shm_is_measured_for_all_ranks_of_a_host(tmp_path, free, state):
    world = World(0, 2, 0, 2, "openmpi")
    usage = Usage(512 * MB, 0, free * MB)
    result = environment.check_shared_memory(world, str(tmp_path), lambda _: usage)
    assert result.state == state
    assert result.numbers["free_bytes"] == free * MB
    assert ("--shm-size" in result.remedy) == (state != OK)


def test_a_missing_dev_shm_is_slow(tmp_path):
    result = environment.check_shared_memory(World(), str(tmp_path / "none"))
    assert result.state == SLOW and "there is no" in result.text
