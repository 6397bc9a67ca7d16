"""Facts about processes on this host, and how one dies with another (Linux; see prctl(2))."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "adopt_orphans",
    "children",
    "die_with_parent",
    "end_msrun_tails",
    "finding_package",
    "is_stopped",
    "keep_writing",
    "launcher_alive",
    "launcher_environment",
    "launcher_process",
    "leave_at_once",
    "msrun_options",
]

_LAUNCHERS = ("mpirun", "mpiexec", "orterun", "prterun", "prted", "orted", "srun", "slurmstepd")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however the parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it had died before


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind when they die."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def leave_at_once(code: int) -> None:
    """End this process without the interpreter's and MindSpore's way out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def finding_package(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which another Python finds this package, which need not be installed."""
    home = str(Path(__file__).resolve().parents[2])
    paths = filter(None, [home, environ.get("PYTHONPATH")])
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


def children() -> list[int]:
    """This process's children that still run (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append(int(entry.parent.name))
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped (SIGSTOP, Ctrl-Z) and not gone on yet (Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


class _Lasting(io.FileIO):
    """A file descriptor that nobody may be reading any more."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for native code, too
            os.close(nowhere)
            return len(data)


def keep_writing() -> None:
    """Have this process's output go nowhere, rather than fail, when its reader has gone.

    mpirun is gone 0.5 s after a Ctrl-C, with the other ends of its ranks' pipes, while they still
    save: a print must not end that.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream.fileno() == number:
                stream.flush()
                raw = _Lasting(number, "w", closefd=False)
                fresh = io.TextIOWrapper(
                    io.BufferedWriter(raw),
                    encoding=stream.encoding,
                    errors=stream.errors,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                )
                setattr(sys, name, fresh)


def launcher_process() -> str:
    """The process that started this job's ranks here, as ``pid start-time``.

    The nearest ancestor that is a known launcher, else the parent. The start time tells two
    processes apart that had one number after the other.
    """
    pid = _known_launcher() or os.getppid()
    return f"{pid} {_process(pid)[2]}"


def _known_launcher(more: tuple[str, ...] = ()) -> int:
    """The nearest ancestor that is a launcher by its name; 0 if there is none."""
    pid = os.getppid()
    for _ in range(32):
        name, above, _ = _process(pid)
        if name.startswith((*_LAUNCHERS, "hydra", *more)) or "pmi_proxy" in name:
            return pid
        if above <= 1:
            break
        pid = above
    return 0


def launcher_environment() -> dict[str, str]:
    """The environment of the launcher that started this job's ranks here; empty if it isn't known.

    Unlike what a rank's parents have, its guard among them, it isn't the rank's own.
    """
    pid = _known_launcher(("msrun",))
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if pid else []
    except OSError:  # slurmstepd's belongs to root
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def launcher_alive(process: str) -> bool:
    """Whether what ``launcher_process`` returned still runs (on Linux; elsewhere always)."""
    pid, _, started = process.partition(" ")
    return not started or _process(int(pid))[2] == started


def msrun_options() -> tuple[int, bool] | None:
    """The parent's ``--local_worker_num`` and ``--join``, if the parent is msrun.

    msrun tells its ranks neither. Without ``--join True`` it ends as soon as they run, and its
    end then means nothing.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    if not any(Path(word).name.startswith("msrun") for word in words[:3]):
        return None
    options = dict(zip(words, words[1:]))
    options.update(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    local = options.get("--local_worker_num", "8")
    return (int(local) if local.isdigit() else 8), options.get("--join", "False") == "True"


def end_msrun_tails() -> None:
    """End the ``tail -f`` that shows this process's output, which msrun leaves when it is killed.

    It would run for ever, and keep the pipe of whoever reads msrun's output open (2.8). A user's
    own is told from msrun's by its environment.
    """
    with contextlib.suppress(OSError):
        ours = os.fstat(1)
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")[:3]
                if len(words) < 3 or words[:2] != [b"/usr/bin/tail", b"-f"]:
                    continue
                watched = os.stat(os.path.join(os.readlink(folder / "cwd").encode(), words[2]))
                from_msrun = b"MS_SCHED_PORT=" in (folder / "environ").read_bytes()
                if from_msrun and os.path.samestat(ours, watched):
                    os.kill(int(folder.name), signal.SIGKILL)


def _process(pid: int) -> tuple[str, int, str]:
    """A process's name, parent and start time; "", 0, "" if it has ended (or not on Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0, ""
    name, _, rest = text[text.index("(") + 1 :].rpartition(")")
    fields = rest.split()
    if fields[0] == "Z":  # it has ended, though nobody has asked for its status yet
        return "", 0, ""
    return name, int(fields[1]), fields[19]
