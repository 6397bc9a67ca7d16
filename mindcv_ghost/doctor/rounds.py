"""Which checks there are, in which order, and what each one needs."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mindcv_ghost import compat
from mindcv_ghost.doctor import devices, disks, environment, places
from mindcv_ghost.doctor.board import Alone, Board, place
from mindcv_ghost.doctor.examination import EVERY, FIRST, HOST, Check, Examination
from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, SLOW, Finding, Report
from mindcv_ghost.doctor.usage import Asked, examined
from mindcv_ghost.doctor.watch import Watch
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.launch.cluster import barrier, join, start_scheduler
from mindcv_ghost.launch.environment import device_id
from mindcv_ghost.launch.processes import launcher_environment
from mindcv_ghost.launch.world import World
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.run.imports import importing_without_gc
from mindcv_ghost.version import __version__

__all__ = ["examine", "examine_outside"]

# Ascend's compiler takes minutes for a network, and each of three graphs is compiled anew.
_COMPILING_SECONDS = 3600.0
# MindSpore gives ranks 600 s to find each other (MS_TOPO_TIMEOUT).
_JOINING_SECONDS = 700.0
_BUILDING_SECONDS = 1300.0


def examine(asked: Asked, world: World, argv: Sequence[str]) -> int:
    """Make all checks; every rank has to call it. Rank 0 prints.

    Args:
        asked: the command line.
        world: this process among its job's.
        argv: the command line as it was given.

    Returns:
        The exit status, the same on all ranks.

    Raises:
        LaunchError: if ranks on several hosts have no common folder.
    """
    with contextlib.ExitStack() as stack:
        board, folder = _open_board(world, asked)
        stack.callback(board.remove)
        report = Report(_facts(asked, world, argv))
        watch = Watch(world.rank, world.size, folder, asked.json, report.facts)
        stack.callback(watch.close)
        examination = Examination(world, board, watch, report, _printer(asked, world))
        examination.patience = asked.patience
        examination.make(_light(asked, world))
        if not asked.light:
            examination.make(_heavy(asked, world, stack))
        if not examination.lost:
            barrier("the doctor's end")  # nobody reads the board any more
    return _finish(asked, world, report, examination.lost)


def examine_outside(asked: Asked, error: LaunchError, argv: Sequence[str]) -> int:
    """Make the light checks where a launcher's variables make no sense.

    Args:
        asked: the command line.
        error: what is wrong with them.
        argv: the command line as it was given.
    """
    world = World()
    report = Report(_facts(asked, world, argv))
    with contextlib.closing(Watch(0, 1, None, asked.json, report.facts)) as watch:
        examination = Examination(world, Alone(), watch, report, _printer(asked, world))
        remedy = "start all processes by one launcher, or unset these variables"
        broken = Finding("launcher", BROKEN, str(error), remedy, blocks=True)
        checks = [
            Check("launcher", lambda: broken) if each.what == "launcher" else each
            for each in _light(asked, world)
        ]
        examination.make(checks)
    return _finish(asked, world, report, lost=False)


def _open_board(world: World, asked: Asked) -> tuple[Alone | Board, Path | None]:
    if world.size == 1:
        return Alone(), None
    folder = place(world, os.environ, asked.config.checkpoint.ckpt_save_dir)
    board = Board(folder, world)
    if world.is_main:
        try:
            board.prepare()
        except OSError as error:
            raise LaunchError(
                f"the ranks can't leave each other their findings in {folder} "
                f"({error.strerror}). Give a folder that all hosts share with --ckpt_save_dir."
            ) from error
    barrier("the doctor's board")
    if not folder.is_dir():
        raise LaunchError(
            f"the ranks are on several hosts and pass their findings on in {folder}, which rank "
            f"{world.rank}'s host doesn't see. Give a folder that all hosts share with "
            "--ckpt_save_dir."
        )
    return board, folder


def _printer(asked: Asked, world: World):
    def show(line: str) -> None:
        if world.is_main:
            print(line, file=sys.stderr if asked.json else sys.stdout, flush=True)

    return show


def _finish(asked: Asked, world: World, report: Report, lost: bool) -> int:
    if world.is_main:
        _printer(asked, world)(report.ending())
        if asked.json:
            print(report.as_json(), flush=True)
    if lost:
        # Ranks that are still in a check never come to the job's common end. If it is rank 0 that
        # is, its watcher needs a moment to say so.
        time.sleep(0 if world.is_main else 8)
        raise SystemExit(1)
    return report.status


def _facts(asked: Asked, world: World, argv: Sequence[str]) -> dict[str, str]:
    from mindcv_ghost.storage.provenance import source_commit

    found = environment.installed()
    names = {"python": "Python", "mindspore": "MindSpore", "mindcv": "MindCV"}
    names |= {"numpy": "NumPy", "pillow": "Pillow"}
    commit = source_commit() if world.is_main else None
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''}"
    config = asked.config
    return {
        "mindcv-ghost": __version__ + (f", commit {commit}" if commit else ""),
        "versions": ", ".join(f"{names[key]} {value or '-'}" for key, value in found.items()),
        "platform": f"{platform.platform()}, {describe_hardware()}",
        "device": f"{config.system.device_target}, {ranks}, launcher {world.launcher}",
        "recipe": Path(config.path).name if config.path else "none",
        "command": shlex.join(["python", "-m", "mindcv_ghost.doctor", *argv]),
    }


def _light(asked: Asked, world: World) -> list[Check]:
    """What needs no MindSpore."""
    config = asked.config
    device = config.system.device_target
    run_folder = Path(config.checkpoint.ckpt_save_dir)

    def images() -> Finding:
        if "data_dir" not in config.explicit:
            return Finding("images", SKIPPED, "give --data_dir to try the images")
        return disks.images(config, device)

    return [
        Check(
            "versions", lambda: environment.versions(environment.installed(), device), where=HOST
        ),
        Check("launcher", lambda: places.launcher(world, os.environ), where=FIRST),
        Check("left-over variables", lambda: places.variables(world, os.environ), where=FIRST),
        Check("scheduler's address", lambda: places.meeting(world, os.environ), where=FIRST),
        Check("cores and memory", lambda: environment.cores(world), where=HOST),
        Check("/dev/shm", lambda: environment.shared_memory(world), where=HOST),
        Check("compiler", lambda: environment.compiler(device), 300, where=HOST),
        Check("run folder", lambda: disks.run_folder(run_folder), 300, where=FIRST),
        Check("images", images, 900, where=HOST),
    ]


def _heavy(asked: Asked, world: World, stack: contextlib.ExitStack) -> list[Check]:
    """What MindSpore has to compute; made in this order, on all ranks."""
    asked_device = asked.config.system.device_target
    trials: list = []  # the one trial, once there is a cluster

    def look() -> Finding:
        return devices.found(*devices.ask_mindspore(), asked_device, os.environ)

    def set_up() -> Finding:
        start_scheduler(world)  # it starts while MindSpore loads
        with importing_without_gc():
            import mindspore  # noqa: F401

            from mindcv_ghost.doctor import training

        device = compat.resolve_device(asked_device)
        count = compat.device_count(device)
        number = device_id(os.environ, world, device, count, launcher_environment())
        config = examined(asked, device)
        compat.set_up(device, number, config.system.mode, config.system.jit_level)
        trials.append((config, device, training))
        what = "device of each rank"
        if count is None:
            return Finding(what, OK, f"all take the {device}", numbers={"device": device})
        text = f"{device}, {count} here; rank:number"
        numbers = {"device": device, "device_id": number}
        return Finding(what, OK, text, numbers=numbers, part=f"{world.rank}:{number}")

    def cluster() -> Finding:
        config, device, training = trials.pop()
        started = time.perf_counter()
        join(world, device)
        log = training.collect_log()
        trials.append(training.Trial(config, world, device, asked.steps, log))
        what = "cluster"
        if world.size == 1:
            return Finding(what, SKIPPED, "one process needs none")
        seconds = time.perf_counter() - started
        text = f"{world.size} ranks have become one in {seconds:.1f} s"
        return Finding(what, OK, text, numbers={"seconds": seconds})

    def native() -> Finding:
        return _native_code(trials[0].config, trials[0].device, world)

    def all_reduce() -> Finding:
        from mindcv_ghost.doctor import communication

        return communication.all_reduce(trials[0].collectives, trials[0].device)

    def gather() -> Finding:
        from mindcv_ghost.doctor import communication

        return communication.exchange(trials[0].collectives)

    own_folder: list[Path] = []

    def save() -> Finding:
        from mindcv_ghost.doctor import saving

        if world.is_main:
            run_folder = Path(asked.config.checkpoint.ckpt_save_dir)
            own_folder.append(stack.enter_context(disks.visit(run_folder)))
        return saving.save(trials[0], own_folder[0] if own_folder else None)

    def resume() -> Finding:
        from mindcv_ghost.doctor import saving

        return saving.resume(trials[0], own_folder[0] if own_folder else None)

    def trial(name: str):
        return lambda: getattr(trials[0], name)()

    long = _COMPILING_SECONDS
    talks = ("cluster", "AllReduce", "gather and broadcast")
    return [
        Check("devices", look, 300, where=HOST),
        Check("device of each rank", set_up, 600, ("versions", "devices", "launcher")),
        Check("cluster", cluster, _JOINING_SECONDS, ("device of each rank",)),
        Check("AllReduce", all_reduce, 600, ("cluster",)),
        Check("gather and broadcast", gather, 600, ("cluster", "AllReduce")),
        Check("native code", native, _BUILDING_SECONDS, ("cluster",), HOST),
        Check("network", trial("prepare"), _BUILDING_SECONDS, talks),
        Check("loss and gradients", trial("compare"), long, ("network",)),
        Check("training", trial("train"), long, ("network",)),
        Check("equal ranks", trial("equal"), 600, ("training",)),
        Check("save and load", save, 600, ("training", "run folder")),
        Check("resume", resume, long, ("save and load",)),
        Check("sink mode", trial("sink"), long, ("network",), EVERY),
    ]


def _native_code(config, device: str, world: World) -> Finding:
    """Build the package's C++, or find it built, where a training would use it."""
    from mindcv_ghost.data.native import library as loader
    from mindcv_ghost.kernels import library as kernels
    from mindcv_ghost.native_build import Unavailable

    there, missing = [], []
    if device == "CPU" and config.system.native_kernels:
        try:
            kernels.load(kernels.threads_for(world.local_size))
            there.append("operators")
        except Unavailable as reason:
            missing.append(f"operators: {reason}")
    if config.dataset.native_loader:
        try:
            loader.load()
            there.append("image loader")
        except Unavailable as reason:
            missing.append(f"image loader: {reason}")
    what = "native code"
    if missing:
        text = f"MindSpore's own are used, which take longer; {'; '.join(missing)}"
        remedy = "install a C++17 compiler; native_kernels and native_loader false say it is meant"
        return Finding(what, SLOW, text, remedy)
    if not there:
        return Finding(what, SKIPPED, "the recipe doesn't want it here")
    return Finding(what, OK, f"{' and '.join(there)} built and tested")
