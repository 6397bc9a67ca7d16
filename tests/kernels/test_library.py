"""Building, choosing and refusing: with a compiler, without, with a bad one, two at once."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost import compat, native_build, native_prebuilt
from mindcv_ghost.kernels import library
from mindcv_ghost.kernels.acceleration import accelerate
from mindcv_ghost.kernels.install import install
from mindcv_ghost.layers import GhostModule


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mindcv_ghost"


def compiler(tmp_path: Path, monkeypatch, script: str) -> None:
    """Make $CXX a shell script."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def stock_report() -> str:
    """Accelerate a network and check that nothing has changed; the line for the log."""
    module = GhostModule(4, 6).set_train(False)
    x = Tensor(np.ones((1, 4, 5, 5), np.float32))
    before = module(x).asnumpy()
    report = accelerate(module)
    assert (report.native_ghost_modules, report.threads, report.ghost_modules) == (0, 0, 1)
    assert type(module) is GhostModule
    np.testing.assert_array_equal(module(x).asnumpy(), before)
    return str(report)


def test_on_another_device_stock_operators_stay_and_the_line_says_why(monkeypatch):
    monkeypatch.setattr(compat, "current_device", lambda: "Ascend")
    expected = "MindSpore's operators: native operators are for the CPU, not Ascend"
    assert stock_report() == expected


def test_a_network_without_layers_for_them_needs_no_compiler(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    report = accelerate(nn.SequentialCell(nn.Dense(3, 4), nn.LayerNorm((4,))))
    assert str(report) == "MindSpore's operators: no layer has a native operator"
    assert not cache.exists()


def test_without_a_compiler_stock_operators_stay(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    reason = "CXX is 'no-such-compiler', which isn't the name or path of a program"
    assert stock_report() == f"MindSpore's operators: {reason}"


def test_a_compiler_that_fails_is_quoted(cache, tmp_path, monkeypatch):
    compiler(tmp_path, monkeypatch, "echo 'kernels: too hard for me' >&2; exit 1")
    line = stock_report()
    assert line.startswith("MindSpore's operators: ") and "fails (kernels: too hard for me)" in line
    assert [path.name for path in cache.glob("*/*")] == ["lock"]


def test_a_library_that_cannot_be_loaded_never_gets_its_name(cache, tmp_path, monkeypatch):
    write = 'while [ "$1" != "-o" ]; do [ $# = 0 ] && exit 0; shift; done; echo no > "$2"'
    compiler(tmp_path, monkeypatch, write)
    assert "MindSpore's operators: the self-test ends with 1" in stock_report()
    assert not list(cache.glob("*/*.so"))


def test_a_processor_that_lacks_an_instruction_ends_the_self_test_alone(
    cache, tmp_path, monkeypatch, built
):
    wrong = tmp_path / "wrong.cc"
    wrong.write_text('extern "C" void ghost_set_threads(int) { __builtin_trap(); }')
    real = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    find = 'while [ "$1" != "-o" ]; do [ $# = 0 ] && exit 0; shift; done'
    compiler(tmp_path, monkeypatch, f'{find}; "{real}" -shared -fPIC "{wrong}" -o "$2"')
    assert "MindSpore's operators: the self-test ends with -" in stock_report()


def test_a_cache_that_cannot_be_written_leaves_stock_operators(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "MindSpore's operators: the cache" in stock_report()


def test_without_a_home_folder_stock_operators_stay(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "this user has no home folder: set XDG_CACHE_HOME" in stock_report()


def test_a_file_system_without_locks_still_gets_its_library(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with native_build._locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()


def test_an_editors_folder_among_the_sources_changes_no_library(tmp_path):
    (tmp_path / "a.cc").write_text("int a;")
    (tmp_path / ".cache").mkdir()
    assert native_prebuilt.source_files(tmp_path) == [tmp_path / "a.cc"]


def test_the_line_counts_what_is_native(built):
    network = nn.SequentialCell(
        GhostModule(4, 6), nn.Conv2d(6, 6, 3, group=6), nn.BatchNorm2d(6), nn.Dense(6, 2)
    )
    line = str(install(network, built))
    assert line == (
        "native operators for 1 of 1 Ghost module, 1 convolution, 1 depthwise convolution, "
        "1 batch norm, 2 threads"
    )


@pytest.mark.slow
def test_two_processes_at_once_build_one_library(cache, tmp_path, monkeypatch, built):
    # A compiler that waits until both processes are there, and then hands out what it has made.
    find = 'while [ "$1" != "-o" ]; do [ $# = 0 ] && exit 0; shift; done'
    missing = f'[ $(wc -l < "{tmp_path}/here") != 2 ]'
    wait = f"for _ in $(seq 600); do {missing} && sleep 0.1; done"
    script = f'{find}; echo >> "{tmp_path}/asked"; {wait}; cp "{built.path}" "$2"'
    compiler(tmp_path, monkeypatch, script)
    root = Path(library.__file__).parents[2]
    code = (
        "from mindcv_ghost.kernels.library import load; from pathlib import Path\n"
        f"print(file=open({str(tmp_path / 'here')!r}, 'a'))\n"
        "path = load(1).path; print(path, path.stat().st_ino)"
    )
    environ = {**os.environ, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(cache.parent)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environ)
        for _ in range(2)
    ]
    answers = {rank.communicate(timeout=120)[0] for rank in ranks}
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert len(answers) == 1
    once = len(list(library.SOURCES.glob("*.cc"))) + 1  # each source, and the library
    assert len((tmp_path / "asked").read_text()) == once
    names = sorted(path.name for path in cache.glob("*/*"))
    assert names == ["kernels.so", "lock"]


def test_the_self_test_inherits_neither_a_launchers_nor_mindspores_variables(monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "RANK_ID", "MS_ROLE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.setenv("GLOG_v", "3")
    given = []

    def run(command, what, environ, folder):
        given.append(environ)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(native_build, "_run", run)
    native_build._test(library.library_spec(), Path("draft.so"))
    assert not [n for n in given[0] if n.startswith(("OMPI_", "PMI_", "SLURM_", "RANK_", "MS_"))]
    assert given[0]["GLOG_v"] == "3"
    home = str(Path(native_build.__file__).parents[1])
    assert given[0]["PYTHONPATH"].split(os.pathsep)[0] == home


def test_another_processor_or_source_never_meets_this_ones_library(monkeypatch, tmp_path):
    here = native_build.cache_key(library.library_spec(), "c++")
    assert native_build.cache_key(library.library_spec(), "c++") == here
    monkeypatch.setattr(native_build, "_processor", lambda: "another")
    assert native_build.cache_key(library.library_spec(), "c++") != here
    monkeypatch.undo()
    shutil.copytree(library.SOURCES, tmp_path / "cpp")
    (tmp_path / "cpp" / "pooling.cc").write_text("// changed")
    monkeypatch.setattr(library, "SOURCES", tmp_path / "cpp")
    assert native_build.cache_key(library.library_spec(), "c++") != here


def test_cores_are_shared_by_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr(library, "usable_cores", lambda: 7)
    assert [library.threads_for(ranks) for ranks in (1, 2, 3, 7, 8)] == [7, 3, 2, 1, 1]
