"""Building C++ of ours at first use, once for a machine: compiled, tested, and only then named."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Recipe", "Unavailable", "built", "commands", "key"]

_COMPILERS = ("c++", "g++", "clang++")
_BUILD_SECONDS = 300
_OF_RANKS = ("MS_", "OMPI_", "PMI", "PMIX_", "SLURM_", "RANK_")


class Unavailable(Exception):
    """Why there is no such library here, in half a sentence."""


@dataclass(frozen=True)
class Recipe:
    """How a library is made.

    Args:
        name: of its file, without an ending.
        sources: folder of its sources; every ``.cc`` is compiled.
        flags: for the compiler, besides those for this processor.
        self_test: module that is run on the finished library and ends with status 0 if it is right.
        test_files: its files; changed ones are a reason to build anew.
        packages: distributions whose versions the library has to fit.
    """

    name: str
    sources: Path
    flags: tuple[str, ...]
    self_test: str
    test_files: tuple[Path, ...]
    packages: tuple[str, ...] = ("mindspore",)


def built(recipe: Recipe) -> Path:
    """Path of a library, which is built first if this machine hasn't got it yet.

    Raises:
        Unavailable: if it can't be built here, or fails its test.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"they are for Linux, and this is {sys.platform}")
    compiler = _compiler()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindcv_ghost"
    if ":" in str(cache):
        raise Unavailable(f"MindSpore can't name a library whose path has a colon ({cache})")
    path = cache / key(recipe, compiler) / f"{recipe.name}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / "lock"):
            if not path.exists():  # another process may have built it meanwhile
                _build(recipe, compiler, path)
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


def key(recipe: Recipe, compiler: str) -> str:
    """Name all that a library depends on: it must never meet another processor or MindSpore."""
    parts = [*recipe.flags, _native(), compiler, platform.machine(), _processor()]
    parts.append(_output([compiler, "--version"]))
    for package in recipe.packages:
        try:
            parts.append(metadata.version(package))
        except metadata.PackageNotFoundError:
            parts.append("unknown")
    for source in sorted(recipe.sources.iterdir()):
        parts += [source.name, source.read_text(encoding="utf-8")]
    parts += [test.read_text(encoding="utf-8") for test in recipe.test_files]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def commands(
    flags: Sequence[str], sources: Sequence[Path], path: Path, compiler: str = ""
) -> list[list[str]]:
    """What to run, one after the other until one succeeds, to make a library or a program.

    The first is for this very processor, which not every compiler knows, the second for its family.

    Args:
        flags: for the compiler, besides those for this processor.
        sources: files.
        path: of the result.
        compiler: which; the system's if empty.

    Raises:
        Unavailable: if there is no compiler.
    """
    compiler = compiler or _compiler()
    ends = [*map(str, sources), "-o", str(path), "-ldl"]
    return [[compiler, *flags, *native, *ends] for native in ([_native()], [])]


def _native() -> str:
    """Use all that this processor has: ARM's compilers take the processor, others its family."""
    is_arm = platform.machine().lower() in ("aarch64", "arm64")
    return "-mcpu=native" if is_arm else "-march=native"


def _processor() -> str:
    """The first core's model and instruction sets."""
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


def _build(recipe: Recipe, compiler: str, path: Path) -> None:
    """Compile, test, and only then give the library its name."""
    draft = path.with_name(f"draft-{os.getpid()}.so")
    sources = sorted(recipe.sources.glob("*.cc"))
    try:
        for command in commands(recipe.flags, sources, draft, compiler):
            done = _run(command, "the compiler")
            if done.returncode == 0:
                break
        else:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unavailable(f"{compiler} fails ({last})")
        _test(recipe, draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _test(recipe: Recipe, draft: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([root, inherited] if inherited else [root])
    command = [sys.executable, "-m", recipe.self_test, str(draft)]
    # A process by itself, even where this one is a rank: no launcher's or cluster's variables.
    environ = {k: v for k, v in os.environ.items() if not k.startswith(_OF_RANKS)}
    done = _run(command, "the self-test", {**environ, "PYTHONPATH": paths})
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
