"""The operators under the compiler's sanitizers: bounds, undefined behaviour, races."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mindcv_ghost.kernels.library import FLAGS, SOURCES

DRIVER = Path(__file__).with_name("drive.cc")
# Without -O3, for readable reports and a short build; what is left changes what is computed.
OPTIONS = [flag for flag in FLAGS if flag not in ("-O3", "-shared")]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_operators_touch_nothing_of_others_and_do_not_race(tmp_path, sanitizer):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path / "drive"
    command = [compiler, *OPTIONS, "-O1", "-g", "-DGHOST_SEPARATE_SCRATCH"]
    command += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    if sanitizer == "thread":  # which doesn't follow threads into a forked child
        command.append("-DWITHOUT_FORK")
    sources = [str(source) for source in sorted(SOURCES.glob("*.cc"))]
    command += [str(DRIVER), *sources, "-o", str(program), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip(f"this compiler comes without the libraries of -fsanitize={sanitizer}")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, env=plain_environment())
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def plain_environment() -> dict[str, str]:
    """Without options that a developer has set for sanitizers."""
    return {key: value for key, value in os.environ.items() if not key.endswith("SAN_OPTIONS")}
