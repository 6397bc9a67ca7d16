"""Processes on this host: the launcher above this one, children below, and how to end (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

__all__ = [
    "adopt_orphans",
    "children",
    "die_with_parent",
    "end_msrun_tails",
    "exit_now",
    "ignore_closed_output",
    "is_stopped",
    "kill",
    "launcher_alive",
    "launcher_environment",
    "launcher_process",
    "msrun_options",
    "start_thread",
    "start_timer",
    "stderr_into",
]

_LAUNCHERS = (
    *("mpirun", "mpiexec", "orterun", "prterun", "prted", "orted", "srun", "slurmstepd"),
    "hydra",
)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h; see prctl(2)


def start_thread(target: Callable[..., object], *arguments: object) -> None:
    """Run a function in a daemon thread."""
    threading.Thread(target=target, args=arguments, daemon=True).start()


def start_timer(
    seconds: float, target: Callable[..., object], *arguments: object
) -> threading.Timer:
    """Run a function in a daemon thread after some seconds, unless the timer is cancelled."""
    timer = threading.Timer(seconds, target, arguments)
    timer.daemon = True
    timer.start()
    return timer


# -- living and dying ---------------------------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however the parent dies.

    The kernel takes the end of the *thread* that started this process for its parent's death.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the call


def adopt_orphans() -> None:
    """Become the parent of processes that descendants leave behind when they die."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill(processes: Iterable[int]) -> None:
    """Send SIGKILL to processes, those that have ended already excepted."""
    for pid in processes:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def exit_now(code: int) -> NoReturn:
    """End this process without exit functions, which MindSpore's may hang in."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


class _ForgivingStream(io.TextIOWrapper):
    """Text to a file descriptor, which is redirected to /dev/null when certain errors occur.

    The raw file below can't be the one that forgives: a Ctrl-C that is handled in its Python code
    comes between the system's write and BufferedWriter's note of it, which then writes the same
    bytes once more.
    """

    def __init__(self, number: int, like: io.TextIOWrapper, errors: type[OSError]) -> None:
        super().__init__(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
            like.encoding,
            like.errors,
            line_buffering=like.line_buffering,
            write_through=like.write_through,
        )
        self._forgiven = errors

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except self._forgiven:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except self._forgiven:
            self._discard()
            super().flush()  # what is still in the buffer

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())  # for native code, too
        os.close(null)


def ignore_closed_output(errors: type[OSError] = OSError) -> None:
    """Discard this process's output, instead of failing, once its reader has gone.

    mpirun ends 0.5 s after a Ctrl-C and closes the pipes of its ranks while these still save.
    A print must not end the save.

    Args:
        errors: what to forgive; ``BrokenPipeError`` where a full disk has to be told.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream.fileno() == number:
                stream.flush()
                setattr(sys, name, _ForgivingStream(number, stream, errors))


@contextlib.contextmanager
def stderr_into(file: BinaryIO) -> Iterator[None]:
    """Write to a file what the block writes to standard error, native code included."""
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)


# -- what /proc tells -----------------------------------------------------------------------------


class _Process(NamedTuple):
    """A line of ``/proc/PID/stat``; see proc(5)."""

    pid: int
    name: str = ""
    state: str = ""
    parent: int = 0
    started: str = ""


def _read_process(pid: int) -> _Process:
    """Read what /proc knows of a process; only its number if it has ended (or not on Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _Process(pid)
    name, _, rest = text[text.index("(") + 1 :].rpartition(")")
    fields = rest.split()
    if fields[0] == "Z":  # it has ended, though its parent hasn't asked for its status yet
        return _Process(pid)
    return _Process(pid, name, fields[0], int(fields[1]), fields[19])


def _all_pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def children() -> list[int]:
    """List this process's children that still run."""
    return [pid for pid in _all_pids() if _read_process(pid).parent == os.getpid()]


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped (SIGSTOP, Ctrl-Z) and not continued yet."""
    return _read_process(pid).state == "T"


def launcher_process() -> str:
    """Identify the process that started this job's ranks here, as ``pid start-time``.

    It is the nearest ancestor that is a known launcher, else the parent. The start time tells
    apart two processes that had the same number one after the other.
    """
    pid = _known_launcher(_LAUNCHERS) or os.getppid()
    return f"{pid} {_read_process(pid).started}"


def launcher_alive(process: str) -> bool:
    """Whether what :func:`launcher_process` returned still runs (on Linux; elsewhere always)."""
    pid, _, started = process.partition(" ")
    return not started or _read_process(int(pid)).started == started


def _known_launcher(names: tuple[str, ...]) -> int:
    """Find the nearest ancestor that is a launcher by its name; 0 if there is none."""
    process = _read_process(os.getppid())
    while process.name:
        if process.name.startswith(names) or "pmi_proxy" in process.name:
            return process.pid
        process = _read_process(process.parent)
    return 0


def launcher_environment() -> dict[str, str]:
    """Read the environment of the launcher that started this job's ranks; {} if it isn't known.

    The processes between launcher and rank are no use for this: they have the rank's environment.
    """
    pid = _known_launcher((*_LAUNCHERS, "msrun"))
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if pid else []
    except OSError:  # slurmstepd's belongs to root
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def msrun_options() -> tuple[int, bool] | None:
    """Read the parent's ``--local_worker_num`` and ``--join``; None if the parent isn't msrun.

    msrun tells its ranks neither of them. Without ``--join True`` it ends as soon as they run, so
    its end doesn't end the job.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    if not any(Path(word).name.startswith("msrun") for word in words[:3]):
        return None
    options = dict(zip(words, words[1:]))
    for word in words:
        if word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            options[name] = value
    local = options.get("--local_worker_num", "8")
    return (int(local) if local.isdigit() else 8), options.get("--join", "False") == "True"


def end_msrun_tails() -> None:
    """End the ``tail -f`` that shows this process's output, which a killed msrun leaves behind.

    It would run forever and keep the pipe of msrun's reader open (2.8). msrun's is told from a
    user's own by its environment.
    """
    with contextlib.suppress(OSError):
        output = os.fstat(1)
        for pid in _all_pids():
            with contextlib.suppress(OSError):
                folder = Path(f"/proc/{pid}")
                words = (folder / "cmdline").read_bytes().split(b"\0")[:3]
                if len(words) < 3 or words[:2] != [b"/usr/bin/tail", b"-f"]:
                    continue
                watched = os.stat(os.path.join(os.readlink(folder / "cwd").encode(), words[2]))
                from_msrun = b"MS_SCHED_PORT=" in (folder / "environ").read_bytes()
                if from_msrun and os.path.samestat(output, watched):
                    kill([pid])
