"""Checks of a host: installed releases, compiler, cores, memory, /dev/shm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mindcv_ghost import compat
from mindcv_ghost.doctor.report import BROKEN, OK, SLOW, CheckResult
from mindcv_ghost.launch.environment import threads_per_rank
from mindcv_ghost.launch.world import World
from mindcv_ghost.native_build import Unavailable, compiler_commands, prebuilt_level
from mindcv_ghost.report.hardware import describe_hardware

__all__ = [
    "check_compiler",
    "check_cores_and_memory",
    "check_shared_memory",
    "check_versions",
]

_MB = 1 << 20
_LEAST_MEMORY, _GOOD_MEMORY = 1 << 30, 4 << 30
_LEAST_SHM, _GOOD_SHM = 16 * _MB, 64 * _MB
# What this package's C++ needs: C++17, threads, and the compiler's vector extension.
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


def check_versions(found: Mapping[str, str], device: str) -> CheckResult:
    """Check that the installed releases are supported together.

    Args:
        found: from :func:`compat.installed_versions`.
        device: Ascend, GPU, CPU or auto.
    """
    problems = compat.version_problems(found)
    doubtful = []
    if not problems:
        doubtful = compat.version_warnings(found, "CPU" if device == "auto" else device)
    state = BROKEN if problems else SLOW if doubtful else OK
    installed = (f"{compat.SUPPORTED[key].name} {value}" for key, value in found.items() if value)
    text = "; ".join([*(each.text for each in problems), *doubtful, ", ".join(installed)])
    return CheckResult("versions", state, text, "; ".join(p.remedy for p in problems), {**found})


def check_compiler(device: str) -> CheckResult:
    """Build a small library in the same way as the package's own C++.

    Args:
        device: Ascend, GPU, CPU or auto; operators are only built for the CPU.
    """
    what = "compiler"
    used = "operators and image loader" if device in ("CPU", "auto") else "image loader"
    lost = f"this package's {used} can't be built; MindSpore's are used, which are slower"
    remedy = "install a C++17 compiler (Debian: apt-get install g++), or set CXX to one"
    level = prebuilt_level()
    if level:
        return CheckResult(what, OK, f"not needed; the installation brings its {used} for {level}")
    if not sys.platform.startswith("linux"):
        return CheckResult(what, SLOW, f"{lost}: they need Linux, and this is {sys.platform}")
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
                    return CheckResult(what, OK, f"{version}; builds the {used}")
        except Unavailable as reason:
            return CheckResult(what, SLOW, f"{lost}: {reason}", remedy)
        except (OSError, subprocess.TimeoutExpired) as error:
            return CheckResult(what, SLOW, f"{lost}: {error}", remedy)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    why = (errors or done.stderr.strip().splitlines() or ["no message"])[0].strip()
    return CheckResult(what, SLOW, f"{lost}: {tried[0][0]} fails ({why})", remedy)


def check_cores_and_memory(
    world: World, cores: int = 0, meminfo: str = "/proc/meminfo"
) -> CheckResult:
    """Check that a host's cores and memory suffice for its ranks.

    Args:
        world: this process's place in the job.
        cores: usable cores; 0 to ask the system.
        meminfo: file with Linux's memory statistics.
    """
    what, ranks = "cores and memory", world.local_size
    cores = cores or compat.usable_cores()
    threads = threads_per_rank(world, cores)
    shared = f" and rank ({ranks} ranks here)" if ranks > 1 else ""
    text = f"{describe_hardware()}; {threads} thread{'s' if threads > 1 else ''} for a process"
    text += shared
    numbers = {"cores": cores, "threads": threads}
    state, remedy = OK, ""
    if cores < ranks:
        state = SLOW
        remedy = f"start at most {cores} ranks on this host, or give the job more cores"
    total, free = _memory(meminfo)
    if free:
        each = free / ranks
        numbers |= {"memory_bytes": total, "free_memory_bytes": free}
        text += f"; {free / 1e9:.1f} of {total / 1e9:.1f} GB memory free"
        if each < _LEAST_MEMORY:
            state = BROKEN
            remedy = (
                f"a rank needs 1 GB, and {each / 1e9:.1f} GB are free for each: end other programs"
            )
        elif each < _GOOD_MEMORY and state == OK:
            state = SLOW
            remedy = f"{each / 1e9:.1f} GB per rank may not be enough; 4 GB are recommended"
    return CheckResult(what, state, text, remedy, numbers)


def _memory(meminfo: str) -> tuple[int, int]:
    """Return total and available memory in bytes; zeros if they are unknown."""
    try:
        text = Path(meminfo).read_text(encoding="utf-8")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return int(found.get("MemTotal", 0)) * 1024, int(found.get("MemAvailable", 0)) * 1024


class DiskUsage(Protocol):
    """What ``shutil.disk_usage`` returns, as far as it is used here; in bytes."""

    @property
    def total(self) -> int:
        """Size of the file system."""

    @property
    def free(self) -> int:
        """Free space."""


def check_shared_memory(
    world: World,
    folder: str = "/dev/shm",
    usage: Callable[[str], DiskUsage] = shutil.disk_usage,
) -> CheckResult:
    """Check that /dev/shm is large enough for the processes of this host.

    Args:
        world: this process's place in the job.
        folder: its path.
        usage: returns a file system's total and free bytes.
    """
    what = "/dev/shm"
    remedy = "enlarge it: docker run --shm-size=8g ..., or mount -o remount,size=8g /dev/shm"
    if not os.path.isdir(folder):
        return CheckResult(what, SLOW, f"there is no {folder}; Open MPI and NCCL use it", remedy)
    found = usage(folder)
    needed, recommended = _LEAST_SHM * world.local_size, _GOOD_SHM * world.local_size
    text = f"{found.free / 1e6:,.0f} of {found.total / 1e6:,.0f} MB free"
    numbers = {"total_bytes": found.total, "free_bytes": found.free}
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(min(_LEAST_SHM, max(found.free, 1))))
    except OSError as error:
        return CheckResult(what, BROKEN, f"{text}, can't be written ({error.strerror})", remedy)
    if found.free < needed:
        text += f"; {world.local_size} ranks need {needed / 1e6:,.0f} MB"
        return CheckResult(what, BROKEN, text, remedy, numbers)
    if found.free < recommended:
        text += f"; {recommended / 1e6:,.0f} MB are recommended for {world.local_size} ranks"
        return CheckResult(what, SLOW, text, remedy, numbers)
    return CheckResult(what, OK, text, numbers=numbers)
