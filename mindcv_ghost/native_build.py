"""Provides this package's C++ libraries: tests them at first use, and caches them per machine.

A wheel brings libraries for x86-64 (``native_prebuilt``), which are taken if they pass the test.
Otherwise, and with MINDCV_GHOST_COMPILE=1, the system's compiler builds them for this processor.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mindcv_ghost.compat import cache_folder, usable_cores
from mindcv_ghost.errors import UserError
from mindcv_ghost.launch.environment import with_package_path, without_launcher
from mindcv_ghost.native_prebuilt import (
    LIBRARIES,
    compilers_reason,
    find_compiler,
    library_for,
    processor_flags,
    source_files,
)

__all__ = [
    "LibrarySpec",
    "Unavailable",
    "build_library",
    "cache_key",
    "compiler_commands",
    "prebuilt_level",
]

_BUILD_SECONDS = 300


class Unavailable(Exception):
    """The library can't be built or used on this machine; the text is the reason, a clause."""


@dataclass(frozen=True)
class LibrarySpec:
    """How a library is built.

    Args:
        name: file name of the library, without suffix.
        sources: folder of the sources; every ``.cc`` file is compiled.
        flags: compiler flags, besides those for this processor.
        self_test: module that is run with the library's path; exit status 0 if it is correct.
        test_files: files of the self-test; the library is rebuilt when they change.
        packages: distributions on whose versions the library depends.
    """

    name: str
    sources: Path
    flags: tuple[str, ...]
    self_test: str
    test_files: tuple[Path, ...]
    packages: tuple[str, ...] = ("mindspore",)


def build_library(spec: LibrarySpec) -> Path:
    """Return the path of a library in the cache; make and test it first if it isn't there.

    Raises:
        Unavailable: if it can't be built here, or fails its self-test.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"this package's C++ is built on Linux only, and this is {sys.platform}")
    try:
        cache = cache_folder()
    except UserError as no_home:
        raise Unavailable(str(no_home)) from None
    if ":" in str(cache):
        raise Unavailable(f"MindSpore can't name a library whose path has a colon ({cache})")
    prebuilt = _prebuilt(spec.name, spec.sources)
    problem = ""
    if prebuilt:
        key = _hash(spec, [hashlib.sha256(prebuilt.read_bytes()).hexdigest()])
        try:
            return _cached(spec, key, functools.partial(shutil.copyfile, prebuilt))
        except Unavailable as reason:
            problem = f"the prebuilt library isn't used because {reason}; "
    try:
        compiler = _compiler()
        key = cache_key(spec, compiler)
        return _cached(spec, key, lambda draft: _compile(spec, compiler, draft))
    except Unavailable as reason:
        raise Unavailable(f"{problem}{reason}") from reason


def prebuilt_level() -> str:
    """Return the level of the libraries that are taken before any is compiled; "" for none."""
    paths = [_prebuilt(name, sources) for name, sources in LIBRARIES.items()]
    return paths[0].stem.split("-", 2)[2] if paths[0] and all(paths) else ""


def _prebuilt(name: str, sources: Path) -> Path | None:
    if os.environ.get("MINDCV_GHOST_COMPILE") == "1":
        return None
    return library_for(name, sources, processor_flags())


def _cached(spec: LibrarySpec, key: str, write: Callable[[Path], object]) -> Path:
    """Return a library in the cache. If it isn't there, ``write`` a draft, test and rename it."""
    path = cache_folder() / key / f"{spec.name}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / "lock"):
            if path.exists():  # another process may have made it in the meantime
                return path
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                draft = Path(folder) / path.name
                write(draft)
                _test(spec, draft)
                with draft.open("rb") as file:  # a power cut mustn't leave an empty library there
                    os.fsync(file.fileno())
                os.replace(draft, path)
    except OSError as error:
        raise Unavailable(f"the cache {cache_folder()} can't be written ({error})") from error
    return path


def _compiler() -> str:
    try:
        return find_compiler()
    except FileNotFoundError as reason:
        raise Unavailable(str(reason)) from None


def cache_key(spec: LibrarySpec, compiler: str) -> str:
    """Hash what a compiled library depends on: sources, compiler, processor and packages."""
    return _hash(spec, [*spec.flags, _native(), compiler, _output([compiler, "--version"])])


def _hash(spec: LibrarySpec, makers: Sequence[str]) -> str:
    """Hash what a library depends on, and what its self-test does; ``makers``: how it is made."""
    parts = [*makers, platform.machine(), _processor()]
    for package in spec.packages:
        try:
            parts.append(metadata.version(package))
        except metadata.PackageNotFoundError:
            parts.append("unknown")
    for source in source_files(spec.sources):
        parts += [source.name, source.read_text(encoding="utf-8", errors="replace")]
    parts += [test.read_text(encoding="utf-8") for test in spec.test_files]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def compiler_commands(
    flags: Sequence[str], sources: Sequence[Path], path: Path, compiler: str = ""
) -> list[list[str]]:
    """Return the commands that compile a library or a program; run them until one succeeds.

    The first one optimises for this very processor, which not every compiler knows. The second one
    optimises for its family.

    Args:
        flags: compiler flags, besides those for this processor.
        sources: the files to compile.
        path: of the library or program.
        compiler: name or path; "" for the system's.

    Raises:
        Unavailable: if there is no compiler.
    """
    compiler = compiler or _compiler()
    ends = [*map(str, sources), "-o", str(path), "-ldl"]
    return [[compiler, *flags, *processor, *ends] for processor in _processor_flags()]


def _processor_flags() -> tuple[list[str], list[str]]:
    """Return the flags for this very processor, and those for any of its family."""
    return [_native()], []


def _native() -> str:
    """The flag that enables all of this processor's instructions; ARM's compilers have another."""
    is_arm = platform.machine().lower() in ("aarch64", "arm64")
    return "-mcpu=native" if is_arm else "-march=native"


def _processor() -> str:
    """The first core's model and instruction sets, as text."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "features", "cpu part", "cpu implementer")
    return "\n".join(line for line in first.splitlines() if line.lower().startswith(kept))


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} doesn't run ({error})") from error
    return done.stdout


def _compile(spec: LibrarySpec, compiler: str, draft: Path) -> None:
    """Compile the sources, as many at a time as there are cores, and link them.

    On two cores that takes 19 s for the operators, and 35 s in one command (AMD EPYC); 49 s on an
    older one.
    """
    with tempfile.TemporaryDirectory(dir=draft.parent) as folder:
        sources = sorted(spec.sources.glob("*.cc"))
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        for processor in _processor_flags():
            start = [compiler, *spec.flags, *processor]
            commands = [
                [*start, "-c", str(source), "-o", str(made)]
                for source, made in zip(sources, objects)
            ]
            problem = _first_problem(commands) or _first_problem(
                [[*start, *map(str, objects), "-o", str(draft), "-ldl"]]
            )
            if not problem:
                return
    raise Unavailable(f"{compiler} fails ({problem})")


def _first_problem(commands: list[list[str]]) -> str:
    """Run compilers side by side; return why the first of them fails, or ""."""
    with ThreadPoolExecutor(usable_cores()) as several:
        for done in list(several.map(lambda command: _run(command, "the compiler"), commands)):
            if done.returncode != 0:
                return compilers_reason(done.stderr)
    return ""


def _test(spec: LibrarySpec, draft: Path) -> None:
    command = [sys.executable, "-m", spec.self_test, str(draft)]
    # The test is a single process even if this one is a rank, and MindSpore's own settings (its
    # compile cache, for example) must not change what it computes.
    environ = with_package_path(without_launcher(os.environ))
    environ = {name: value for name, value in environ.items() if not name.startswith("MS_")}
    # Not the user's folder, which may have modules that Python would import instead of its own.
    done = _run(command, "the self-test", environ, draft.parent)
    if done.returncode != 0:
        last = (f"{done.stdout}\n{done.stderr}".strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"the self-test ends with {done.returncode} ({last})")


def _run(
    command: list[str],
    what: str,
    environ: dict[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_SECONDS, env=environ, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what} doesn't run ({error})") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the operating system releases it when the process ends.

    Some network file systems have no locks (NFS without its lock daemon, Lustre with ``noflock``).
    There several processes may build the same library, and the last one's stays.
    """
    import fcntl

    with path.open("w") as file:
        end = time.monotonic() + 2 * _BUILD_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Unavailable(f"another process holds {path}") from None
                time.sleep(0.1)
            except OSError:
                break
        yield
