"""The list of checks, their order, and what each one needs."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_ghost import compat
from mindcv_ghost.config import Config
from mindcv_ghost.doctor import devices
from mindcv_ghost.doctor.disks import check_images, check_run_folder, scratch_folder
from mindcv_ghost.doctor.environment import (
    check_compiler,
    check_cores_and_memory,
    check_shared_memory,
    check_versions,
    installed_versions,
)
from mindcv_ghost.doctor.launch_environment import (
    check_launcher,
    check_leftover_variables,
    check_scheduler_address,
)
from mindcv_ghost.doctor.options import Options, trial_config
from mindcv_ghost.doctor.report import OK, SKIPPED, CheckResult
from mindcv_ghost.doctor.runner import ONE_PER_HOST, RANK_0, Check, Output
from mindcv_ghost.launch.cluster import join, start_scheduler
from mindcv_ghost.launch.environment import device_id
from mindcv_ghost.launch.processes import launcher_environment
from mindcv_ghost.launch.world import World
from mindcv_ghost.run.imports import importing_without_gc

if TYPE_CHECKING:
    from mindcv_ghost.doctor.trials.session import Session
    from mindcv_ghost.doctor.trials.training import Prepared, Trained

__all__ = ["light_checks", "trial_checks"]

# Ascend's compiler takes minutes for a network, and each of three graphs is compiled from scratch.
_COMPILE_SECONDS = 3600.0
# MindSpore gives ranks 600 s to find each other (MS_TOPO_TIMEOUT).
_JOIN_SECONDS = 700.0
_BUILD_SECONDS = 1300.0


def light_checks(options: Options, world: World) -> list[Check]:
    """List the checks that don't load MindSpore into this process.

    Args:
        options: the command line.
        world: this process's place in the job.
    """
    config = options.config
    device = config.system.device_target
    run_folder = Path(config.checkpoint.ckpt_save_dir)

    def versions() -> CheckResult:
        return check_versions(installed_versions(), device)

    def images() -> CheckResult:
        if "data_dir" not in config.explicit:
            return CheckResult("images", SKIPPED, "give --data_dir to check the images")
        return check_images(config, device)

    return [
        Check("versions", versions, on=ONE_PER_HOST),
        Check("launcher", lambda: check_launcher(world, os.environ), on=RANK_0),
        Check(
            "left-over variables", lambda: check_leftover_variables(world, os.environ), on=RANK_0
        ),
        Check("scheduler's address", lambda: check_scheduler_address(os.environ), on=RANK_0),
        Check("cores and memory", lambda: check_cores_and_memory(world), on=ONE_PER_HOST),
        Check("/dev/shm", lambda: check_shared_memory(world), on=ONE_PER_HOST),
        Check("compiler", lambda: check_compiler(device), 300, on=ONE_PER_HOST),
        Check("run folder", lambda: check_run_folder(run_folder), 300, on=RANK_0),
        Check("images", images, 900, on=ONE_PER_HOST),
    ]


def trial_checks(options: Options, world: World, stack: contextlib.ExitStack) -> list[Check]:
    """List the checks for which MindSpore has to compute.

    The modules of ``trials`` load MindSpore, so they are imported within the checks.

    Args:
        options: the command line.
        world: this process's place in the job.
        stack: leaves the cluster and removes the scratch folder when it is closed.
    """
    wanted_device = options.config.system.device_target
    set_up: Output[tuple[Config, str]] = Output()
    session: Output[Session] = Output()
    prepared: Output[Prepared] = Output()
    trained: Output[Trained] = Output()
    saved: Output[Path | None] = Output()

    def device_list() -> CheckResult:
        answer, message = devices.query_mindspore()
        return devices.check_devices(answer, message, wanted_device, os.environ)

    def device_of_rank() -> CheckResult:
        start_scheduler(world)  # the scheduler starts while MindSpore loads
        with importing_without_gc():
            import mindcv_ghost.doctor.trials.training  # noqa: F401 (loads MindSpore and MindCV)

        device = compat.resolve_device(wanted_device)
        count = compat.device_count(device)
        number = device_id(os.environ, world, device, count, launcher_environment())
        config = trial_config(options, device)
        compat.set_up(device, number, config.system.mode, config.system.jit_level)
        set_up.set((config, device))
        what = "device of each rank"
        if count is None:
            return CheckResult(what, OK, f"all take the {device}", numbers={"device": device})
        text = f"{device}, {count} here; rank:number"
        numbers = {"device": device, "device_id": number}
        return CheckResult(what, OK, text, numbers=numbers, per_rank=f"{world.rank}:{number}")

    def cluster() -> CheckResult:
        from mindcv_ghost.doctor.trials.session import open_session

        config, device = set_up.get()
        started = time.perf_counter()
        join(world, device)
        session.set(open_session(config, world, device, options.steps))
        what = "cluster"
        if world.size == 1:
            return CheckResult(what, SKIPPED, "only one process")
        seconds = time.perf_counter() - started
        text = f"{world.size} ranks joined in {seconds:.1f} s"
        return CheckResult(what, OK, text, numbers={"seconds": seconds})

    def all_reduce() -> CheckResult:
        from mindcv_ghost.doctor.trials.communication import check_all_reduce

        return check_all_reduce(session.get().collectives, session.get().device)

    def gather_and_broadcast() -> CheckResult:
        from mindcv_ghost.doctor.trials.communication import check_gather_and_broadcast

        return check_gather_and_broadcast(session.get().collectives)

    def native_code() -> CheckResult:
        from mindcv_ghost.doctor.trials.native_code import check_native_code

        return check_native_code(session.get())

    def network() -> CheckResult:
        from mindcv_ghost.doctor.trials.training import describe, prepare

        return describe(prepared.set(prepare(session.get())))

    def gradients() -> CheckResult:
        from mindcv_ghost.doctor.trials.gradients import check_gradients

        return check_gradients(session.get(), prepared.get().learner)

    def training() -> CheckResult:
        from mindcv_ghost.doctor.trials.training import judge_losses, train

        finished = trained.set(train(prepared.get()))
        return judge_losses("training", finished.prepared, finished.writer.rows)

    def equal_ranks() -> CheckResult:
        from mindcv_ghost.doctor.trials.training import check_equal_ranks

        return check_equal_ranks(prepared.get())

    def save() -> CheckResult:
        from mindcv_ghost.doctor.trials.saving import save_and_load

        if not world.is_main:
            saved.set(None)
            return CheckResult("save and load", OK)
        run_folder = Path(options.config.checkpoint.ckpt_save_dir)
        result, path = save_and_load(trained.get(), stack.enter_context(scratch_folder(run_folder)))
        saved.set(path)
        return result

    def resume() -> CheckResult:
        from mindcv_ghost.doctor.trials.saving import check_resume

        return check_resume(trained.get(), saved.get())

    def sink_mode() -> CheckResult:
        from mindcv_ghost.doctor.trials.training import check_sink_mode

        return check_sink_mode(session.get())

    communication = ("cluster", "AllReduce", "gather and broadcast")
    return [
        Check("devices", device_list, 300, on=ONE_PER_HOST),
        Check("device of each rank", device_of_rank, 600, ("versions", "devices", "launcher")),
        Check("cluster", cluster, _JOIN_SECONDS, ("device of each rank",)),
        Check("AllReduce", all_reduce, 600, ("cluster",)),
        Check("gather and broadcast", gather_and_broadcast, 600, ("cluster", "AllReduce")),
        Check("native code", native_code, _BUILD_SECONDS, ("cluster",), ONE_PER_HOST),
        Check("network", network, _BUILD_SECONDS, communication),
        Check("loss and gradients", gradients, _COMPILE_SECONDS, ("network",)),
        Check("training", training, _COMPILE_SECONDS, ("network",)),
        Check("equal ranks", equal_ranks, 600, ("training",)),
        Check("save and load", save, 600, ("training", "run folder")),
        Check("resume", resume, _COMPILE_SECONDS, ("save and load",)),
        Check("sink mode", sink_mode, _COMPILE_SECONDS, ("network",)),
    ]
