"""Running a command's ``main`` as what the launcher made of the process.

The command ends with the status that ``run_script(main, argv)`` returns. The process is a single
one, a rank of several, or msrun's scheduler; the launcher's variables decide (see ``world``).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

from mindcv_ghost.errors import LaunchError, UserError, type_and_first_line
from mindcv_ghost.launch import cluster, scheduler
from mindcv_ghost.launch.environment import prepare_environment, set_local_size
from mindcv_ghost.launch.failure_channel import Failure
from mindcv_ghost.launch.interrupts import handle_interrupts, tell_interrupt
from mindcv_ghost.launch.processes import exit_now, ignore_closed_output, stderr_into
from mindcv_ghost.launch.supervisor import Supervisor, SupervisorClient
from mindcv_ghost.launch.world import World, detect, is_scheduler

__all__ = ["run_script"]

Main = Callable[[list[str]], "int | None"]


def run_script(main: Main, argv: list[str]) -> int:
    """Run a script's ``main`` as a single process, as a rank, or be msrun's scheduler instead.

    A UserError becomes ``error: ...`` and status 2, Ctrl-C status 130, any other exception its
    traceback and status 1. With several ranks, only rank 0 prints an error, and all ranks end with
    the status of the one that failed. A status other than 0 that all ranks return is no failure. In
    a rank this function doesn't return, because Python's normal exit waits for peers that may be
    dead.

    Args:
        main: takes the arguments, returns an exit status or None.
        argv: arguments without the program's name.

    Returns:
        the exit status.
    """
    try:
        set_local_size()
        if is_scheduler(os.environ):
            return scheduler.run_for_msrun()
        world = detect(os.environ)
        prepare_environment(world)
    except LaunchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if world.size == 1:
        return _run_single(main, argv)
    supervisor = Supervisor(world).fork()
    cluster.set_supervisor(supervisor)
    handle_interrupts()
    ignore_closed_output()
    _run_rank(world, supervisor, main, argv)


def _run_single(main: Main, argv: list[str]) -> int:
    try:
        handle_interrupts()
        ignore_closed_output(BrokenPipeError)  # validate | head
        return main(argv) or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return tell_interrupt()
    except Exception:
        traceback.print_exc()
        return 1


def _run_rank(world: World, supervisor: SupervisorClient, main: Main, argv: list[str]) -> NoReturn:
    try:
        with contextlib.ExitStack() as stack:
            if not world.is_main and not {"-h", "--help"}.isdisjoint(argv):
                null = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(null))  # rank 0 prints it
            code = main(argv) or 0
    except BaseException as error:
        failure = _describe(world, error)
        if failure:
            supervisor.fail(failure)
        code = 0
    supervisor.finish(code)
    _exit_from_mindspore(code)


def _describe(world: World, error: BaseException) -> Failure | None:
    """Describe an exception for the other ranks; None if it is no failure."""
    if isinstance(error, UserError):
        return Failure(world.rank, str(error), 2, kind="user")
    if isinstance(error, KeyboardInterrupt):
        return Failure(world.rank, "interrupted", 130, kind="signal")
    if isinstance(error, SystemExit):
        if not error.code:
            return None
        if isinstance(error.code, int):
            return Failure(world.rank, f"exit status {error.code}", error.code)
        return Failure(world.rank, str(error.code))
    return Failure(world.rank, type_and_first_line(error), detail=traceback.format_exc())


def _exit_from_mindspore(code: int) -> NoReturn:
    """Let MindSpore unregister from its cluster, and end; if it hangs, the supervisor ends it.

    MindSpore unregisters in its exit functions, and prints INFO lines there whatever GLOG_v says
    (2.8), which are dropped here. Its static objects aren't destroyed: that could only do harm.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with tempfile.TemporaryFile() as log:
        with stderr_into(log), contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        log.seek(0)
        for line in log:
            if not line.startswith((b"[INFO]", b"[WARNING]")):
                os.write(2, line)
    exit_now(code)
