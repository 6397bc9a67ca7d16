"""The libraries that a wheel brings: which one is taken, and what happens where it can't be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mindcv_ghost import native_build, native_prebuilt
from mindcv_ghost.kernels import library
from mindcv_ghost.native_prebuilt import LEVELS, LIBRARIES

SOURCES = LIBRARIES["kernels"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An installation's folder of libraries, empty, and an empty cache."""
    (tmp_path / "prebuilt").mkdir()
    monkeypatch.setattr(native_prebuilt, "FOLDER", tmp_path / "prebuilt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MINDCV_GHOST_COMPILE", raising=False)
    return tmp_path / "prebuilt"


def place(folder: Path, level: str, sources: Path = SOURCES) -> Path:
    path = folder / native_prebuilt._file_name("kernels", sources, level)
    path.write_bytes(b"")
    return path


def test_the_best_level_that_the_processor_has_is_taken(folder):
    paths = {level: place(folder, level) for level in LEVELS}
    for level, flags in LEVELS.items():
        assert native_prebuilt.library_for("kernels", SOURCES, flags) == paths[level]
        assert native_prebuilt.library_for("kernels", SOURCES, flags | {"sse4a"}) == paths[level]
    assert list(LEVELS) == ["x86-64-v4", "x86-64-v3", "x86-64-v2"]
    without_vl = LEVELS["x86-64-v4"] - {"avx512vl"}
    assert native_prebuilt.library_for("kernels", SOURCES, without_vl) == paths["x86-64-v3"]
    assert native_prebuilt.library_for("kernels", SOURCES, {"sse2"}) is None
    assert native_prebuilt.library_for("images", LIBRARIES["images"], LEVELS["x86-64-v4"]) is None


def test_the_doctor_learns_the_level_if_all_libraries_are_there(folder, monkeypatch):
    monkeypatch.setattr(native_build, "processor_flags", lambda: LEVELS["x86-64-v3"])
    place(folder, "x86-64-v3")
    assert native_build.prebuilt_level() == ""
    images = native_prebuilt._file_name("images", LIBRARIES["images"], "x86-64-v3")
    (folder / images).write_bytes(b"")
    assert native_build.prebuilt_level() == "x86-64-v3"
    monkeypatch.setenv("MINDCV_GHOST_COMPILE", "1")
    assert native_build.prebuilt_level() == ""


def test_a_library_of_other_sources_is_not_taken(folder, tmp_path):
    place(folder, "x86-64-v2")
    shutil.copytree(SOURCES, tmp_path / "cpp")
    flags = LEVELS["x86-64-v2"]
    assert native_prebuilt.library_for("kernels", tmp_path / "cpp", flags)
    for name in (".gemm.h.swp", "gemm.h~", ".#gemm.h"):  # an editor's
        (tmp_path / "cpp" / name).write_bytes(b"b0VIM\xff")
    assert native_prebuilt.library_for("kernels", tmp_path / "cpp", flags)
    (tmp_path / "cpp" / "compile_flags.txt").write_text("-O2\n")
    assert native_prebuilt.library_for("kernels", tmp_path / "cpp", flags) is None


def test_flags_are_those_that_all_cores_have(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: sse2 avx\n\nprocessor : 1\nflags\t\t: sse2\n")
    assert native_prebuilt.processor_flags(str(file)) == {"sse2"}
    assert native_prebuilt.processor_flags(str(tmp_path / "none")) == set()


@pytest.fixture
def shipped(folder, built, monkeypatch) -> Path:
    """An installation that brings this machine's operators, on a machine without a compiler."""
    path = place(folder, "x86-64-v2")
    shutil.copyfile(built.path, path)
    monkeypatch.setattr(native_build, "processor_flags", lambda: LEVELS["x86-64-v2"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    return path


def test_without_a_compiler_the_library_is_tested_and_used(shipped, monkeypatch):
    tested = []
    monkeypatch.setattr(native_build, "_test", lambda spec, draft: tested.append(draft))
    used = library.load(threads=1).path
    assert used.read_bytes() == shipped.read_bytes()
    assert (len(tested), used.name) == (1, "kernels.so")
    assert library.load(threads=1).path == used
    assert len(tested) == 1  # once for a machine


def test_a_library_that_fails_its_test_is_compiled_instead(shipped, monkeypatch):
    shipped.write_bytes(b"not a library")
    with pytest.raises(native_build.Unavailable) as caught:
        library.load(threads=1)
    text = str(caught.value)
    assert text.startswith("the prebuilt library isn't used because the self-test ends with 1 (")
    assert text.endswith("; CXX is 'no-such-compiler', which isn't the name or path of a program")
    compiled = []
    monkeypatch.setattr(native_build, "_test", fail_unless_compiled(compiled))
    monkeypatch.setattr(native_build, "_compiler", lambda: "c++")
    monkeypatch.setattr(native_build, "_compile", compile_nothing(compiled))
    native_build.build_library(library.library_spec())
    assert compiled == ["c++"]


def fail_unless_compiled(compiled: list[str]):
    def test(spec, draft):
        if not compiled:
            raise native_build.Unavailable("the self-test ends with 1 (as above)")

    return test


def compile_nothing(compiled: list[str]):
    def write(spec, compiler, draft):
        compiled.append(compiler)
        draft.write_bytes(b"")

    return write


def test_a_user_may_want_it_compiled(shipped, monkeypatch):
    monkeypatch.setenv("MINDCV_GHOST_COMPILE", "1")
    with pytest.raises(native_build.Unavailable, match="^CXX is 'no-such-compiler'"):
        library.load(threads=1)


def test_the_wheels_platform_is_the_newest_glibc_that_a_library_needs(tmp_path):
    assert native_prebuilt.platform_tag(tmp_path) == "any"
    (tmp_path / "a.so").write_bytes(b"GLIBC_2.2.5\0GLIBC_2.14\0")
    assert native_prebuilt.platform_tag(tmp_path) == "manylinux_2_17_x86_64"
    (tmp_path / "b.so").write_bytes(b"GLIBC_2.9\0GLIBC_2.34\0GLIBCXX_3.4.99\0")
    assert native_prebuilt.platform_tag(tmp_path) == "manylinux_2_34_x86_64"


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"MINDCV_GHOST_PREBUILT": "0"}, "MINDCV_GHOST_PREBUILT is 0"),
        ({"CXX": "ccache g++"}, "CXX is 'ccache g++', which isn't the name or path of a program"),
        ({"PATH": ""}, "there is no compiler (c++, g++, clang++)"),
        ({"CXX": "false"}, "false fails (no message)"),
    ],
)
def test_where_nothing_can_be_built_nothing_is_left_and_the_reason_is_given(
    environ, reason, tmp_path, monkeypatch
):
    monkeypatch.setattr(native_prebuilt.platform, "machine", lambda: "x86_64")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.so").write_bytes(b"")
    assert native_prebuilt.build_all(tmp_path / "out").endswith(reason)
    assert not (tmp_path / "out").exists()


def test_other_processors_get_a_wheel_without_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(native_prebuilt.platform, "machine", lambda: "aarch64")
    assert native_prebuilt.build_all(tmp_path / "out").endswith("on aarch64")


def test_all_levels_of_all_libraries_are_compiled(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(native_prebuilt.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(native_prebuilt, "_problem_of", lambda c: commands.append(c) or "")
    monkeypatch.setenv("CXX", "true")
    assert native_prebuilt.build_all(tmp_path / "out") == ""
    levels = [word[7:] for command in commands for word in command if word[:7] == "-march="]
    assert sorted(levels) == sorted([*LEVELS, *LEVELS])
    made = {Path(command[command.index("-o") + 1]).name for command in commands}
    assert made == {
        native_prebuilt._file_name(name, sources, level)
        for name, sources in LIBRARIES.items()
        for level in LEVELS
    }
    assert all("-ffast-math" not in command for command in commands)
