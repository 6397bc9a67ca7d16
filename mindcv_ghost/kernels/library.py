"""Building the operators at first use, once for a machine, and loading them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Library", "Unavailable", "load", "threads_for"]

SOURCES = Path(__file__).parent / "cpp"
# Neither -ffast-math nor -ffinite-math-only: a NaN has to stay one. Sums may be reordered, but the
# order is fixed when the compiler has done its work.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
    "-ffp-contract=fast",
)
_COMPILERS = ("c++", "g++", "clang++")
_BUILD_SECONDS = 300


class Unavailable(Exception):
    """Why there are no native operators here, in half a sentence."""


@dataclass(frozen=True)
class Library:
    """Operators that have passed their self-test.

    Args:
        path: the shared library.
        threads: threads that its operators run on.
        has_onednn: whether matrix products are oneDNN's; else they are the library's own, and
            MindSpore's convolutions are faster.
    """

    path: Path
    threads: int
    has_onednn: bool


def threads_for(local_ranks: int) -> int:
    """Threads of each of so many processes that share this machine's cores.

    >>> threads_for(10**6)
    1
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // local_ranks)


def load(threads: int) -> Library:
    """Load the operators, built first if this machine hasn't got them yet.

    Args:
        threads: threads that they run on.

    Raises:
        Unavailable: if they can't be built here, or compute something wrong.
    """
    path = _built()
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} can't be loaded ({error})") from error
    handle.ghost_set_threads(ctypes.c_int(threads))
    has_onednn = handle.ghost_use_onednn(_onednn().encode()) == 1
    return Library(path, threads, has_onednn)


def _onednn() -> str:
    """The oneDNN that MindSpore has loaded; only where its products are compiled for the CPU."""
    module = sys.modules.get("mindspore")
    if module is None or platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    found = sorted((Path(module.__file__).parent / "lib").glob("libdnnl.so*"))
    return str(found[0]) if found else ""


def _built() -> Path:
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"they are for Linux, and this is {sys.platform}")
    compiler = _compiler()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindcv_ghost"
    if ":" in str(cache):
        raise Unavailable(f"MindSpore can't name a library whose path has a colon ({cache})")
    path = cache / _key(compiler) / "kernels.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / "lock"):
            if not path.exists():  # another process may have built it meanwhile
                _build(compiler, path)
    except OSError as error:
        raise Unavailable(f"the cache {cache} can't be written ({error})") from error
    return path


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else _COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise Unavailable(f"there is no compiler ({asked or ', '.join(_COMPILERS)})")


def _key(compiler: str) -> str:
    """Name all that a library depends on: it must never meet another processor or MindSpore."""
    parts = [*FLAGS, _native(), compiler, platform.machine(), _processor()]
    parts.append(_output([compiler, "--version"]))
    try:
        parts.append(metadata.version("mindspore"))
    except metadata.PackageNotFoundError:
        parts.append("unknown")
    for source in sorted(SOURCES.iterdir()):
        parts += [source.name, source.read_text(encoding="utf-8")]
    parts.append((Path(__file__).parent / "self_test.py").read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """The first core's model and instruction sets."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "features", "cpu part", "cpu implementer")
    return "\n".join(line for line in first.splitlines() if line.lower().startswith(kept))


def _native() -> str:
    """Use all that this processor has: ARM's compilers take the processor, others its family."""
    is_arm = platform.machine().lower() in ("aarch64", "arm64")
    return "-mcpu=native" if is_arm else "-march=native"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} doesn't run ({error})") from error
    return done.stdout


def _build(compiler: str, path: Path) -> None:
    """Compile, test, and only then give the library its name."""
    draft = path.with_name(f"draft-{os.getpid()}.so")
    source = str(SOURCES / "entry.cc")
    try:
        for flags in ((*FLAGS, _native()), FLAGS):  # not every compiler knows every processor
            command = [compiler, *flags, source, "-o", str(draft), "-ldl"]
            done = _run(command, "the compiler")
            if done.returncode == 0:
                break
        else:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unavailable(f"{compiler} fails ({last})")
        _test(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _test(draft: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([root, inherited] if inherited else [root])
    command = [sys.executable, "-m", "mindcv_ghost.kernels.self_test", str(draft)]
    done = _run(command, "the self-test", {**os.environ, "PYTHONPATH": paths})
    if done.returncode != 0:
        last = (f"{done.stdout}\n{done.stderr}".strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"the self-test ends with {done.returncode} ({last})")


def _run(command: list[str], what: str, environ: dict[str, str] | None = None):
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_SECONDS, env=environ
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what} doesn't run ({error})") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process that holds it."""
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
        yield
