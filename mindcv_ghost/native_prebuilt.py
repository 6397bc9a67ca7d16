"""The C++ libraries that a wheel brings, and which of them suits this processor.

``setup.py`` builds them, in an environment with nothing but setuptools; so this module imports
nothing else. Each library is there once for each of x86-64's levels, because vectors as wide as the
processor's registers are most of its speed: on an AMD EPYC with AVX-512, a training step of
ghost_resnet50 takes 1.5 times as long with AVX2 and 3.3 times as long with SSE (processor time).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = [
    "FOLDER",
    "LEVELS",
    "LIBRARIES",
    "build_all",
    "compile_flags",
    "compilers_reason",
    "find_compiler",
    "library_for",
    "platform_tag",
    "processor_flags",
    "source_files",
]

_PACKAGE = Path(__file__).resolve().parent
FOLDER = _PACKAGE / "prebuilt"
"""Where a wheel has the libraries; a checkout has no such folder."""
LIBRARIES = {"kernels": _PACKAGE / "kernels" / "cpp", "images": _PACKAGE / "data/native/cpp"}
"""Name of each library -> folder of its sources."""
_COMPILERS = ("c++", "g++", "clang++")

# Linux's names (/proc/cpuinfo) of what the x86-64 psABI's levels need besides the level before.
_V2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}
_V3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"} | _V2
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} | _V3
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2}
"""Level, the best one first -> the processor's flags that it needs."""

# The C++ library is linked in: the system's may be older than the build machine's.
_LINK = ("-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-s", "-ldl")


def compile_flags(sources: Path) -> tuple[str, ...]:
    """Return the compiler flags of a folder of sources, besides those for a processor."""
    return tuple((sources / "compile_flags.txt").read_text(encoding="utf-8").split())


def find_compiler() -> str:
    """Return the path of the C++ compiler: that which CXX names, or the system's.

    Raises:
        FileNotFoundError: if there is none; the message is a clause.
    """
    asked = os.environ.get("CXX")
    names = (asked,) if asked else _COMPILERS
    for found in filter(None, map(shutil.which, names)):
        return found
    if asked:
        raise FileNotFoundError(f"CXX is {asked!r}, which isn't the name or path of a program")
    raise FileNotFoundError(f"there is no compiler ({', '.join(names)})")


def processor_flags(cpuinfo: str = "/proc/cpuinfo") -> set[str]:
    """Return the instruction sets of this machine's processors by Linux's names."""
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8")
    except OSError:
        return set()
    cores = [set(line.split()) for line in re.findall(r"^flags\s*:(.*)$", text, re.MULTILINE)]
    return set.intersection(*cores) if cores else set()


def library_for(name: str, sources: Path, flags: Iterable[str]) -> Path | None:
    """Return the library that suits a processor best; None if this installation has none.

    Args:
        name: a name in :data:`LIBRARIES`.
        sources: folder of its sources. A library that was built of other sources isn't returned.
        flags: as :func:`processor_flags` returns them.
    """
    for level, needed in LEVELS.items():
        path = FOLDER / _file_name(name, sources, level)
        if needed <= set(flags) and path.is_file():
            return path
    return None


def source_files(folder: Path) -> list[Path]:
    """Return what a library is compiled from, sorted; editors keep files of their own beside it."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".cc", ".h") or path.name == "compile_flags.txt"
        if path.is_file() and not path.name.startswith(".")
    )


def _file_name(name: str, sources: Path, level: str) -> str:
    digest = hashlib.sha256()
    for path in source_files(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{name}-{digest.hexdigest()[:16]}-{level}.so"


def build_all(folder: Path) -> str:
    """Build every library for every level.

    Args:
        folder: receives the libraries; it is emptied first.

    Returns:
        Why there are none, a clause; "" if all were built.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if os.environ.get("MINDCV_GHOST_PREBUILT") == "0":
        return "MINDCV_GHOST_PREBUILT is 0"
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return f"they are for Linux on x86-64, not {sys.platform} on {platform.machine()}"
    try:
        compiler = find_compiler()
    except FileNotFoundError as reason:
        return str(reason)
    folder.mkdir(parents=True)
    commands = [
        [
            *(compiler, *compile_flags(sources), f"-march={level}"),
            *(str(path) for path in sorted(sources.glob("*.cc"))),
            *("-o", str(folder / _file_name(name, sources, level)), *_LINK),
        ]
        for name, sources in LIBRARIES.items()
        for level in LEVELS
    ]
    with ThreadPoolExecutor(os.cpu_count()) as several:
        problems = [problem for problem in several.map(_problem_of, commands) if problem]
    if problems:
        shutil.rmtree(folder)
        return f"{compiler} fails ({problems[0]})"
    return ""


def _problem_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return compilers_reason(done.stderr) if done.returncode else ""


def compilers_reason(stderr: str) -> str:
    r"""Return the line of a compiler's output that says why it failed; what follows is context.

    >>> compilers_reason("In file included from a.cc:\nb.h:1: fatal error: no c.h\n1 |")
    'b.h:1: fatal error: no c.h'
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error:" in line), lines[-1])


def platform_tag(folder: Path) -> str:
    """Return the platform tag of a wheel with these libraries: the oldest glibc that loads them.

    Args:
        folder: of the libraries.

    Returns:
        Such as "manylinux_2_35_x86_64" (PEP 600); "any" if there are no libraries.
    """
    data = [path.read_bytes() for path in folder.glob("*.so")]
    minors = [int(minor) for text in data for minor in re.findall(rb"GLIBC_2\.(\d+)", text)]
    return f"manylinux_2_{max(17, *minors)}_x86_64" if minors else "any"
