"""C++ under the compiler's sanitizers: built, run, and expected to have nothing to say."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


def built(sources: list[Path], options: list[str], sanitizer: str, folder: Path) -> Path:
    """The program that these sources make under `-fsanitize=SANITIZER`, built in a folder.

    Each source is compiled on its own, as many at a time as there are cores. The test is skipped
    where there is no compiler, or none with this sanitizer's libraries.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    # The checks of undefined behaviour take twice as long to compile at -O1 as at -Og. The thread
    # sanitizer's program is the slower one to run, and optimising it more pays.
    effort = "-O1" if sanitizer == "thread" else "-Og"
    plain = [option for option in options if option not in ("-O3", "-shared")]
    command = [compiler, *plain, effort, "-g1"]
    command += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]

    def compiled(source: Path) -> str:
        made = str(folder / f"{source.stem}.o")
        ran = subprocess.run(
            [*command, "-c", str(source), "-o", made], capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "program"
    linked = subprocess.run(
        [*command, *objects, "-o", str(program), "-ldl"], capture_output=True, text=True
    )
    if "cannot find" in linked.stderr and "san" in linked.stderr:
        pytest.skip(f"this compiler comes without the libraries of -fsanitize={sanitizer}")
    assert linked.returncode == 0, linked.stderr
    return program


def run(command: list[str]) -> None:
    """Run a command that has to succeed without a word."""
    # Without options that a developer has set for sanitizers.
    environ = {key: value for key, value in os.environ.items() if not key.endswith("SAN_OPTIONS")}
    ran = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
