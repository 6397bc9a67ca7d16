"""From ``World`` to a running cluster: the scheduler, the ranks' start, and everybody's end.

A script is ``sys.exit(run_script(main, sys.argv[1:]))`` and, inside ``main``, once the recipe has
been read, ``with join(world, device_target): ...``. Nothing here needs a flag: the launcher's
variables decide (see ``launch``).

MindSpore's own ``init()`` under mpirun fails on the CPU (2.8: "Failed to initialize communication
library on device side"), so on every device the ranks form MindSpore's dynamic cluster, which
works wherever msrun does: rank 0's guard starts the scheduler process, and the others learn its
address over the lifeline.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from mindcv_ghost.errors import LaunchError, UserError
from mindcv_ghost.launch.failure_channel import SCHEDULER, Failure, Lifeline
from mindcv_ghost.launch.interrupts import take_interrupts
from mindcv_ghost.launch.processes import (
    keep_writing,
    launcher_alive,
    launcher_process,
    leave_at_once,
    msrun_options,
)
from mindcv_ghost.launch.scheduler import SchedulerProcess
from mindcv_ghost.launch.signal_relay import spawn
from mindcv_ghost.launch.supervisor import Ward, open_line, split
from mindcv_ghost.launch.world import (
    LOCAL_SIZE,
    World,
    detect,
    is_scheduler,
    scheduler_address,
    threads_per_rank,
)

__all__ = ["begin", "heed_signals", "join", "meet", "prepare_environment", "run_script"]

# Seconds that MindSpore's CPU collectives wait for a rank that is late, and its scheduler for a
# heartbeat. The default of 30 ends a healthy job when one rank compiles or saves for longer; the
# guards notice death by other means, so this is what Ascend's collectives allow (HCCL: 1836).
_COLLECTIVE_SECONDS = "1800"

# How long MindSpore may take to end, once all ranks have finished their work. Its own default for
# HCCL to give up on a peer is 120 s (HCCL_CONNECT_TIMEOUT); nobody has measured a teardown here.
_EXIT_SECONDS = {"CPU": 20.0, "GPU": 180.0, "Ascend": 180.0}


@dataclasses.dataclass
class _State:
    ward: Ward | None = None
    asked: bool = False
    joined: bool = False
    device: str = "CPU"


_state = _State()


# -- before MindSpore is imported -------------------------------------------------------------


def prepare_environment(world: World) -> None:
    """Set what MindSpore reads at import, unless the user has set it; run_script does this.

    GLOG_v 3 hides its warnings (the cluster alone prints dozens). With several ranks on a host
    each gets its share of the cores: by default each would start a thread for every core.
    """
    os.environ.setdefault("GLOG_v", "3")
    os.environ.setdefault("MS_NODE_TIMEOUT", _COLLECTIVE_SECONDS)
    if world.size == 1:
        return
    # By default a rank that doesn't find its scheduler waits seconds before it asks again (2.8).
    # On a loaded machine starts took 4 to 35 s without these and, in only 6 tries, 4 to 10 s with
    # them; two slow ones that were traced had lost their time before the cluster formed.
    os.environ.setdefault("MS_RETRY_INTERVAL_LOWER", "0.1")
    os.environ.setdefault("MS_RETRY_INTERVAL_UPPER", "0.3")
    if world.launcher == "openmpi":
        _widen_affinity(world)
    threads = threads_per_rank(world, available_cores())
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _widen_affinity(world: World) -> None:
    """Undo Open MPI's binding where it is narrower than a fair share.

    With two ranks or fewer, mpirun binds each to one core, whatever the host has: right for
    a simulation, but here MindSpore's threads and the data pipeline would share that core.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    everything = os.cpu_count() or 1
    if available_cores() < everything // world.local_size:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(everything))


def _tell_local_size() -> None:
    """What ``detect`` can't know about msrun's ranks (see ``launch.LOCAL_SIZE``)."""
    options = msrun_options() if os.environ.get("MS_ROLE") else None
    if options and LOCAL_SIZE not in os.environ:
        size = os.environ.get("MS_WORKER_NUM", "")
        if size.isdigit():
            os.environ[LOCAL_SIZE] = str(min(options[0], int(size)))


# -- the cluster --------------------------------------------------------------------------------


def begin(world: World) -> None:
    """Have the scheduler started, without waiting: it takes as long as importing MindSpore does.

    ``join`` does it, too; call this first where something heavy is imported in between.
    """
    if world.size > 1 and not _state.asked:
        _state.asked = True
        _ward().ask("scheduler")


@contextlib.contextmanager
def join(world: World, device_target: str) -> Iterator[None]:
    """Make the ranks one data-parallel MindSpore cluster; a single process is left alone.

    Imports MindSpore, calls ``mindspore.communication.init()`` and sets the data-parallel
    context with averaged gradients. Every rank has to come here, with its device set by
    ``mindspore.set_device`` (``compat.set_up``): init() keeps a number that was named there, and
    otherwise takes the count of earlier ranks with the same host name (2.8, ``AssignLocalRank`` and
    ``SetDeviceIDEnvByRuntimeConf`` in ``collective_manager.cc``).

    Args:
        world: this process's place in the job.
        device_target: ``Ascend``, ``GPU`` or ``CPU``, as it was set.

    Raises:
        LaunchError: if this isn't inside ``run_script``.
    """
    if world.size > 1 and not _state.joined:
        begin(world)
        _form_cluster(world, device_target, _ward())
        _state.joined, _state.device = True, device_target
    yield


def _ward() -> Ward:
    if _state.ward is None:
        raise LaunchError(
            "several ranks can only join inside a main() that run_script runs: it is what ends "
            "them together"
        )
    return _state.ward


def _form_cluster(world: World, device_target: str, ward: Ward) -> None:
    import mindspore

    host, port = ward.answer("scheduler")
    os.environ.update(
        MS_ROLE="MS_WORKER",
        MS_WORKER_NUM=str(world.size),
        MS_NODE_ID=str(world.rank),
        MS_SCHED_HOST=host,
        MS_SCHED_PORT=str(port),
        RANK_ID=str(world.rank),
        RANK_SIZE=str(world.size),
        DEVICE_ID=str(world.local_rank),
    )
    os.environ[LOCAL_SIZE] = str(world.local_size)
    os.environ.setdefault("MS_TOPO_TIMEOUT", "600")
    # Ranks that register together need the fewest of MindSpore's half-second retries.
    ward.request("the cluster")
    with _short_sleeps() if device_target == "CPU" else contextlib.nullcontext():
        mindspore.communication.init()
    mindspore.set_auto_parallel_context(
        parallel_mode=mindspore.ParallelMode.DATA_PARALLEL,
        gradients_mean=True,
        device_num=world.size,
    )


def meet(where: str) -> None:
    """Wait until all ranks have come here; needs neither MindSpore nor its cluster."""
    if _state.ward is not None:
        _state.ward.request(where)


@contextlib.contextmanager
def heed_signals() -> Iterator[None]:
    """While inside, SIGTERM, SIGINT and SIGUSR1 are for this rank to act on, not the job's end.

    The guard passes each on, once. The rank saves and returns a status from ``main``; all ranks
    have to return then. A second SIGINT, and the end of what a launcher that has gone leaves to
    them (a minute), end the job whatever the rank does. If the launcher is killed or dies on a
    signal, the rank gets SIGTERM.

    Set Python handlers before entering and restore them after leaving. They may run twice:
    Slurm and users signal the rank's process itself, too. In a single process this does nothing.
    """
    ward = _state.ward
    if ward is None:
        yield
        return
    ward.request("heed")
    try:
        yield
    finally:
        ward.request("heed no more")


@contextlib.contextmanager
def _short_sleeps() -> Iterator[None]:
    """Wake MindSpore's CPU collectives from their sleep(3) while they look for each other.

    The first rank there always has to wait for the others' addresses, and sleeps 3 seconds before
    it looks again, at most 19 times (2.8). A signal ends such a sleep early. Measured with 2
    ranks on 2 cores: 5.5 s to the first AllReduce without this, 3.2 s with it.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)  # system calls other than sleep go on
    signal.setitimer(signal.ITIMER_REAL, 0.7, 0.7)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- scripts ------------------------------------------------------------------------------------


def run_script(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a script's ``main`` as what its launcher made it: a single process, a rank, a scheduler.

    A UserError becomes ``error: ...`` and status 2, Ctrl-C status 130, any other exception its
    traceback and status 1. With several ranks, rank 0 alone prints, and all ranks end with the
    status of the one that failed; one that all of them return is no failure. This function then
    doesn't return, because the interpreter's own way out waits for peers that may be dead.

    Args:
        main: takes the arguments, returns an exit status or None.
        argv: arguments without the program's name.

    Returns:
        The exit status.
    """
    try:
        _tell_local_size()
        if is_scheduler(os.environ):
            return _run_msrun_scheduler()
        world = detect(os.environ)
        prepare_environment(world)
        if world.size == 1:
            take_interrupts()
            return _run_single(main, argv)
    except LaunchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    _state.ward = split(world)
    take_interrupts()
    keep_writing()
    _run_rank(world, _state.ward, main, argv)
    raise AssertionError("a rank ends its process")


def _run_single(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    try:
        return main(argv) or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except Exception:
        traceback.print_exc()
        return 1


def _run_rank(
    world: World, ward: Ward, main: Callable[[list[str]], int | None], argv: list[str]
) -> None:
    try:
        with contextlib.ExitStack() as stack:
            if not world.is_main and not {"-h", "--help"}.isdisjoint(argv):
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))  # once is enough
            code = main(argv) or 0
    except BaseException as error:
        failure = _failure(world, error)
        if failure:
            ward.fail(failure)
        code = 0
    ward.request("finish", code=code, exit_seconds=_EXIT_SECONDS[_state.device])
    _leave(code)


def _failure(world: World, error: BaseException) -> Failure | None:
    """What to tell the others about an exception; None if it is no failure."""
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
    # MindSpore adds pages of C++ frames; the first line says it.
    first = (str(error).strip().splitlines() or [""])[0]
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return Failure(world.rank, text, detail=traceback.format_exc())


def _leave(code: int) -> None:
    """Let MindSpore unregister from its cluster, and end.

    It does that in its exit functions, prints INFO lines there whatever GLOG_v says (2.8), and
    destroying its static objects afterwards can only do harm. The guard ends it if it hangs.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with tempfile.TemporaryFile() as log:
        terminal = os.dup(2)
        os.dup2(log.fileno(), 2)
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        os.dup2(terminal, 2)
        log.seek(0)
        for text in log:
            if not text.startswith((b"[INFO]", b"[WARNING]")):
                os.write(2, text)
    leave_at_once(code)


def _run_msrun_scheduler() -> int:
    """Under msrun this process is the scheduler: start it, and end it when a rank has died.

    msrun waits for it without limit, and shows the lines of its output that say ERROR last.
    """
    host, port = scheduler_address(os.environ) or ("", 0)
    size = os.environ.get("MS_WORKER_NUM", "")
    if not host or not size.isdigit():
        raise LaunchError(
            "MS_ROLE=MS_SCHED is set, but not MS_WORKER_NUM, MS_SCHED_HOST and MS_SCHED_PORT: "
            "start with msrun, which sets them all"
        )
    world = World(SCHEDULER, int(size), 0, int(size), "msrun")
    prepare_environment(dataclasses.replace(world, size=1))
    launcher = launcher_process()
    # On Ctrl-C, msrun kills the process that it knows; ranks that save then need the scheduler.
    front = spawn()
    scheduler = SchedulerProcess(host, port, world.size, log=sys.stderr.buffer)
    lines: list[Lifeline] = []
    ending = threading.Event()

    def end(code: int) -> None:
        ending.set()
        scheduler.kill()
        leave_at_once(code)

    def hold_line() -> None:
        with contextlib.suppress(LaunchError):
            lines.append(open_line(world, end, launcher))

    def front_gone() -> None:
        time.sleep(3)  # msrun may be ending: then the ranks' guards know what to do
        if not lines:
            end(1)
        if launcher_alive(launcher):
            text = "the process that msrun started was killed"
            lines[0].report(Failure(SCHEDULER, text, kind="signal"))

    threading.Thread(target=hold_line, daemon=True).start()
    # Signals are for the ranks.
    arguments = (lambda _: None, front_gone)
    threading.Thread(target=front.listen, args=arguments, daemon=True).start()
    status = scheduler.process.wait()
    if ending.is_set():
        threading.Event().wait()  # whoever killed it ends this process, with the status he knows
    return status
