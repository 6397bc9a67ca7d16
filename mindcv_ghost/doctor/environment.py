"""What a host brings along: releases, a compiler, cores, memory, /dev/shm."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from mindcv_ghost import compat
from mindcv_ghost.doctor.findings import BROKEN, OK, SLOW, Finding
from mindcv_ghost.errors import UserError
from mindcv_ghost.launch.environment import threads_per_rank
from mindcv_ghost.launch.world import World
from mindcv_ghost.native_build import Unavailable, compiler_commands
from mindcv_ghost.report.hardware import describe_hardware

__all__ = ["compiler", "cores", "installed", "shared_memory", "versions"]

_PYTHON = ((3, 9), (3, 13))  # from, and below: setup.py's python_requires
_TESTED = "2.8."
# Distribution -> name, least and first too high release (setup.py), and how to get a right one.
_PACKAGES = {
    "mindspore": ("MindSpore", "2.7", "", "pip install 'mindspore==2.8.0' (CPU), or the one of "
                  "your Ascend or GPU from mindspore.cn/install"),
    "mindcv": ("MindCV", "0.3.0", "0.3.1", "pip install mindcv==0.3.0"),
    "numpy": ("NumPy", "1.22", "2", "pip install 'numpy>=1.22,<2'"),
    "pillow": ("Pillow", "9.2", "", "pip install 'pillow>=9.2'"),
}  # fmt: skip
# Other names that MindSpore's packages for devices have had.
_MINDSPORES = ("mindspore", "mindspore-gpu", "mindspore-ascend")
_MB = 1 << 20
_LEAST_MEMORY, _GOOD_MEMORY = 1 << 30, 4 << 30
_LEAST_SHM, _GOOD_SHM = 16 * _MB, 64 * _MB
# What the C++ of the package needs: the standard, threads, vectors of the compiler's own.
_PROGRAM = """
#include <atomic>
#include <thread>
typedef float vector __attribute__((vector_size(32)));
extern "C" int doctor() {
    std::atomic<int> sum{0};
    if constexpr (sizeof(vector) == 32) std::thread([&] { sum += 42; }).join();
    return sum;
}
"""


def installed() -> dict[str, str]:
    """Name the releases that are installed, "" for what isn't; loads nothing."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = ""
        for name in _MINDSPORES if package == "mindspore" else (package,):
            try:
                found[package] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def versions(found: Mapping[str, str], device: str) -> Finding:
    """Hold the releases against what fits together.

    Args:
        found: as :func:`installed` gives them.
        device: Ascend, GPU, CPU or auto.
    """
    what, broken, doubtful, remedies = "versions", [], [], []
    python = tuple(int(part) for part in found["python"].split(".")[:2])
    if not _PYTHON[0] <= python < _PYTHON[1]:
        broken.append(f"Python {found['python']} (3.9 to 3.12 are supported)")
        remedies.append("make an environment with another Python: python3.11 -m venv ...")
    for package, (name, least, too_high, remedy) in _PACKAGES.items():
        version = found[package]
        if not version:
            broken.append(f"{name} isn't installed")
        elif _parts(version) < _parts(least) or (too_high and _parts(version) >= _parts(too_high)):
            legal = f"{least} is" if package == "mindcv" else f"{least} or later"
            legal += f", below {too_high}" if package == "numpy" else ""
            broken.append(f"{name} {version} doesn't fit ({legal} needed)")
        else:
            continue
        remedies.append(remedy)
    names = {"python": "Python", **{key: value[0] for key, value in _PACKAGES.items()}}
    there = ", ".join(f"{names[key]} {value}" for key, value in found.items() if value)
    if not broken:
        try:
            doubtful += compat.check_versions(dict(found), "CPU" if device == "auto" else device)
        except UserError as error:
            broken.append(str(error))
        if not doubtful and not found["mindspore"].startswith(_TESTED):
            doubtful.append(f"the project is tested with MindSpore {_TESTED}0")
    state = BROKEN if broken else SLOW if doubtful else OK
    text = "; ".join([*broken, *doubtful, there])
    return Finding(what, state, text, "; ".join(remedies), {**found})


def _parts(version: str) -> tuple[int, ...]:
    """The numbers of a release, so that 1.26.4 < 2.

    >>> _parts("2.8.0rc1") < _parts("2.10"), _parts("0.3.0") < _parts("0.3.1")
    (True, True)
    """
    numbers = [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def compiler(device: str) -> Finding:
    """Build a small library as the package's own C++ is built.

    Args:
        device: Ascend, GPU, CPU or auto; operators are built for the CPU alone.
    """
    what = "compiler"
    used = "operators and image loader" if device in ("CPU", "auto") else "image loader"
    lost = f"the package's own {used} can't be built, MindSpore's are used and take longer"
    remedy = "install a C++17 compiler (Debian: apt-get install g++), or name one in CXX"
    if not sys.platform.startswith("linux"):
        return Finding(what, SLOW, f"{lost}: they are for Linux, and this is {sys.platform}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "doctor.cc"
        source.write_text(_PROGRAM, encoding="utf-8")
        flags = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
        try:
            tried = compiler_commands(flags, [source], Path(folder) / "doctor.so")
            first = subprocess.run([tried[0][0], "--version"], capture_output=True, text=True)
            for command in tried:
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
                if done.returncode == 0:
                    version = (first.stdout.splitlines() or [command[0]])[0]
                    return Finding(what, OK, f"{version}; builds the {used}")
        except Unavailable as reason:
            return Finding(what, SLOW, f"{lost}: {reason}", remedy)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding(what, SLOW, f"{lost}: {error}", remedy)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    why = (errors or done.stderr.strip().splitlines() or ["no message"])[0].strip()
    return Finding(what, SLOW, f"{lost}: {tried[0][0]} fails ({why})", remedy)


def cores(world: World, there: int = 0, meminfo: str = "/proc/meminfo") -> Finding:
    """Share cores and memory out among a host's ranks.

    Args:
        world: this process among its job's.
        there: cores of this process; 0 to ask the system.
        meminfo: where Linux tells of the memory.
    """
    what, ranks = "cores and memory", world.local_size
    there = there or compat.usable_cores()
    threads = threads_per_rank(world, there)
    shared = f" and rank ({ranks} ranks here)" if ranks > 1 else ""
    text = f"{describe_hardware()}; {threads} thread{'s' if threads > 1 else ''} for a process"
    text += shared
    numbers = {"cores": there, "threads": threads}
    state, remedy = OK, ""
    if there < ranks:
        state = SLOW
        remedy = f"start at most {there} ranks on this host, or give the job more cores"
    total, free = _memory(meminfo)
    if free:
        each = free / ranks
        numbers |= {"memory_bytes": total, "free_memory_bytes": free}
        text += f"; {free / 1e9:.1f} of {total / 1e9:.1f} GB memory free"
        if each < _LEAST_MEMORY:
            state = BROKEN
            remedy = f"a rank needs 1 GB, {each / 1e9:.1f} GB are free for each: end other programs"
        elif each < _GOOD_MEMORY and state == OK:
            state = SLOW
            remedy = f"{each / 1e9:.1f} GB for a rank may be too little; 4 GB are comfortable"
    return Finding(what, state, text, remedy, numbers)


def _memory(meminfo: str) -> tuple[int, int]:
    """Bytes of memory in all, and free for programs; zeros if it can't be read."""
    try:
        text = Path(meminfo).read_text(encoding="utf-8")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return tuple(int(found.get(name, 0)) * 1024 for name in ("MemTotal", "MemAvailable"))


def shared_memory(
    world: World,
    folder: str = "/dev/shm",
    usage: Callable[[str], object] = shutil.disk_usage,
) -> Finding:
    """See whether /dev/shm takes what processes of one host pass each other through it.

    Args:
        world: this process among its job's.
        folder: where it is.
        usage: tells total and free bytes of a folder.
    """
    what = "/dev/shm"
    remedy = "enlarge it: docker run --shm-size=8g ..., or mount -o remount,size=8g /dev/shm"
    if not os.path.isdir(folder):
        return Finding(what, SLOW, f"there is no {folder}; Open MPI and NCCL use it", remedy)
    found = usage(folder)
    least, good = _LEAST_SHM * world.local_size, _GOOD_SHM * world.local_size
    text = f"{found.free / 1e6:,.0f} of {found.total / 1e6:,.0f} MB free"
    numbers = {"total_bytes": found.total, "free_bytes": found.free}
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(min(_LEAST_SHM, max(found.free, 1))))
    except OSError as error:
        return Finding(what, BROKEN, f"{text}, can't be written ({error.strerror})", remedy)
    if found.free < least:
        text += f"; {world.local_size} ranks need {least / 1e6:,.0f} MB"
        return Finding(what, BROKEN, text, remedy, numbers)
    if found.free < good:
        text += f"; {good / 1e6:,.0f} MB would be comfortable for {world.local_size} ranks"
        return Finding(what, SLOW, text, remedy, numbers)
    return Finding(what, OK, text, numbers=numbers)
