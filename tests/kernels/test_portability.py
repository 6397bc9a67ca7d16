"""The operators as other processors get them: x86-64 without AVX-512, without AVX2, and ARM.

Where this machine can't run such code, or has no compiler for it, a test says so and is skipped.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindcv_ghost import native_build
from mindcv_ghost.kernels import library
from mindcv_ghost.kernels.library import FLAGS, SOURCES
from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.kernels.self_test.checks import check_library
from mindcv_ghost.kernels.self_test.reference import EPSILON, convolution
from tests.kernels.recording import record_self_test

HERE = Path(__file__).parent
OPERATORS = [str(path) for path in sorted(SOURCES.glob("*.cc"))]
PROGRAM_FLAGS = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC")]
# Of the greatest value, between float32 sums of up to 4608 terms and those in float64.
CLOSE = 5e-5
# images, maps in and out, rows, columns, kernel, stride: of Ghost-ResNet-50, and no round ones
CONVOLUTIONS = [
    *((2, 64, 32, 32, 32, 1, 1), (2, 64, 32, 32, 32, 3, 1), (2, 128, 64, 31, 33, 3, 2)),
    *((3, 512, 65, 5, 7, 3, 1), (1, 1024, 1024, 8, 8, 1, 2), (2, 3, 64, 37, 64, 7, 2)),
    *((1, 17, 19, 1, 1, 3, 1), (5, 33, 31, 2, 3, 1, 1), (1, 5, 6, 23, 1, 5, 1)),
    *((5, 70, 13, 14, 14, 1, 1), (5, 70, 13, 7, 7, 1, 2), (3, 70, 13, 9, 7, 5, 3)),
]


def compiler(name: str) -> str:
    """A compiler's path, or the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}")
    return found


def compiled(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def has_avx2() -> bool:
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.fixture(
    scope="module",
    params=[pytest.param(level, marks=pytest.mark.slow) for level in ("x86-64", "x86-64-v3")],
)
def for_x86(request, tmp_path_factory) -> ctypes.CDLL:
    """A library that has AVX2 but not AVX-512, and one that has neither."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"this processor is {platform.machine()}, not x86-64")
    if request.param == "x86-64-v3" and not has_avx2():
        pytest.skip("this processor has no AVX2")
    path = tmp_path_factory.mktemp("x86") / f"{request.param}.so"
    command = [compiler("g++"), *FLAGS, f"-march={request.param}"]
    objects = [str(path.with_name(f"{Path(source).stem}.o")) for source in OPERATORS]
    lines = [[*command, "-c", source, "-o", made] for source, made in zip(OPERATORS, objects)]
    with ThreadPoolExecutor() as several:
        list(several.map(compiled, lines))
    compiled([*command, *objects, "-o", str(path), "-ldl"])
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_without_avx512_and_avx2_every_operator_computes_its_formula(for_x86, threads):
    for_x86.ghost_set_threads(ctypes.c_int(threads))
    check_library(for_x86)


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=lambda shape: "x".join(map(str, shape)))
def test_without_avx512_and_avx2_convolutions_of_any_shape_are_right(for_x86, shape):
    images, inputs, outputs, rows, columns, kernel, stride = shape
    random = np.random.default_rng(0)
    x = random.normal(size=(images, inputs, rows, columns))
    weight = random.normal(size=(outputs, inputs, kernel, kernel))
    expected = convolution(x, weight, stride)
    dy = random.normal(size=expected.shape)
    for_x86.ghost_set_threads(ctypes.c_int(2))
    (y,) = call(for_x86, "ghost_conv", [[stride], x, weight], [expected.shape])
    assert np.abs(y - expected).max() <= CLOSE * np.abs(expected).max()
    inputs_of = {
        "ghost_conv_backward_input": ([[stride], dy, weight, x], x),
        "ghost_conv_backward_weight": ([[stride], x, dy, weight], weight),
    }
    for name, (inputs, variable) in inputs_of.items():
        (gradient,) = call(for_x86, name, inputs, [variable.shape])
        # Linear: the change along any direction is the convolution of the direction.
        step = random.normal(size=variable.shape)
        shifted = (step, weight) if variable is x else (x, step)
        change = (convolution(*shifted, stride) * dy).sum()
        scale = np.sqrt((gradient.astype(np.float64) ** 2).sum() * (step**2).sum())
        assert abs((gradient * step).sum() - change) <= CLOSE * scale, name


@pytest.mark.parametrize("side", [1, 4, 7, 8, 14, 17, 28, 56])
def test_without_avx512_and_avx2_tails_are_those_of_this_processors_library(for_x86, built, side):
    here = ctypes.CDLL(str(built.path))
    random = np.random.default_rng(side)
    norms = [[*random.normal(size=(3, maps)), random.uniform(0.5, 1.5, maps)] for maps in (5, 10)]
    u, weight = random.normal(size=(3, 5, side, side)), random.normal(size=(10, 1, 3, 3))
    settings = [0, EPSILON, EPSILON]
    shortcut, dy = random.normal(size=(2, 3, 14, side, side))
    variables = [u, *norms[0][:2], weight, *norms[1][:2]]
    forward = [settings, *variables, shortcut]
    shapes = [shortcut.shape, (30,)]
    kept = call(here, "ghost_tail_add", forward, shapes)
    evaluation = [settings, u, *norms[0], weight, *norms[1], shortcut]
    backward = [settings, *variables, kept[1], dy, kept[0]]
    gradients = [np.shape(variable) for variable in (*variables, shortcut)]
    cases = [
        ("ghost_tail_add", forward, shapes),
        ("ghost_tail_add_evaluate", evaluation, shapes[:1]),
        ("ghost_tail_add_backward", backward, gradients),
    ]
    for case in cases:
        for mine, other in zip(call(for_x86, *case), call(here, *case)):
            scale = np.abs(other).max() + 1e-3
            assert np.abs(mine - other).max() <= 1e-4 * scale, case[0]


@pytest.fixture(scope="module", params=["armv8-a", "armv8.2-a+sve"])
def for_arm(request, tmp_path_factory):
    """Build a program for ARM, of the sources named; a call runs it under an emulator."""
    command = [compiler("aarch64-linux-gnu-g++"), *PROGRAM_FLAGS, f"-march={request.param}"]
    emulator = compiler("qemu-aarch64")
    folder = tmp_path_factory.mktemp("arm")
    system = Path("/usr/aarch64-linux-gnu")

    def build(source: str):
        program = folder / Path(source).stem
        # The emulator itself ends in a fork of a program with threads.
        options = ["-DWITHOUT_FORK", "-rdynamic", "-o", str(program), "-ldl"]
        compiled([*command, str(HERE / source), *OPERATORS, *options])

        def run(*arguments: object) -> subprocess.CompletedProcess:
            line = [emulator, "-cpu", "max", "-L", str(system), str(program)]
            line += map(str, arguments)
            return subprocess.run(line, capture_output=True, text=True, timeout=250)

        return run

    return build


@pytest.mark.slow
def test_on_arm_every_operator_computes_what_it_computes_here(
    for_arm, handle, tmp_path, monkeypatch
):
    calls = record_self_test(handle, tmp_path / "calls", monkeypatch)
    run = for_arm("replay.cc")
    for threads in (1, 3):
        done = run(tmp_path / "calls", threads)
        assert (done.stderr, done.stdout) == ("", f"{calls} calls agree\n")
    data = bytearray((tmp_path / "calls").read_bytes())
    data[-1] ^= 64  # the last number's exponent
    (tmp_path / "calls").write_bytes(data)
    assert "is off by" in run(tmp_path / "calls", 1).stderr


@pytest.mark.slow
def test_on_arm_neither_threads_nor_callers_at_once_change_anything(for_arm):
    done = for_arm("drive.cc")()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_compilers_for_arm_are_asked_for_this_processor_in_their_own_words(monkeypatch, tmp_path):
    spec, here = library.library_spec(), native_build.cache_key(library.library_spec(), "c++")
    script = f'echo "$@" >> "{tmp_path}/asked"; exit 1'
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native_build.platform, "machine", lambda: "aarch64")
    assert native_build.cache_key(spec, "c++") != here
    with pytest.raises(native_build.Unavailable, match="fails"):
        native_build.build_library(spec)
    asked = (tmp_path / "asked").read_text().splitlines()
    tried = [line.split() for line in asked if "--version" not in line]
    sources = len(list(spec.sources.glob("*.cc")))
    first, second = tried[:sources], tried[sources:]
    assert len(second) == sources
    assert all("-mcpu=native" in words and "-march=native" not in words for words in first)
    assert not any("native" in word for words in second for word in words)


def test_a_compiler_that_does_not_know_the_processor_builds_for_its_family(monkeypatch, tmp_path):
    # A cross compiler for ARM knows no native processor; what it makes can't be tested here.
    monkeypatch.setenv("CXX", compiler("aarch64-linux-gnu-g++"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native_build.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(native_build, "_test", lambda *_: None)
    # One line will do: the operators themselves are built for ARM where they are run, see above.
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "one.cc").write_text('extern "C" int one() { return 1; }\n')
    spec = replace(library.library_spec(), sources=tmp_path / "cpp")
    head = native_build.build_library(spec).read_bytes()[:20]
    assert (head[:4], head[18]) == (b"\x7fELF", 183)  # the ELF header's machine: AArch64
