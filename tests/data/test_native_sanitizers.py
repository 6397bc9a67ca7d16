"""The image library under the compiler's sanitizers: bounds, undefined behaviour, races."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mindcv_ghost.data.native.library import FLAGS, jpeg_libraries

from .conftest import encoded, photograph

DRIVER = Path(__file__).with_name("drive_images.cc")
OPTIONS = [flag for flag in FLAGS if flag not in ("-O3", "-shared")]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_library_has_no_memory_errors_and_no_races(tmp_path, sanitizer):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path / "drive"
    command = [compiler, *OPTIONS, "-O1", "-g", f"-fsanitize={sanitizer}"]
    command += ["-fno-sanitize-recover=all", str(DRIVER), "-o", str(program), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip(f"this compiler comes without the libraries of -fsanitize={sanitizer}")
    assert built.returncode == 0, built.stderr
    kinds = [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 2}]
    images = [encoded(photograph(k, (61 + k, 47 - 3 * k)), **o) for k, o in enumerate(kinds)]
    images += [encoded(photograph(9, size)) for size in ((3000, 1), (1, 3000), (1, 1))]
    paths = []
    for k, data in enumerate(images):
        path = tmp_path / f"{k}.jpg"
        path.write_bytes(data)
        paths.append(str(path))
    environ = {key: value for key, value in os.environ.items() if not key.endswith("SAN_OPTIONS")}
    command = [str(program), jpeg_libraries()[0], *paths]
    ran = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
