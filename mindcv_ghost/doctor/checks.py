"""The list of checks, their order, and what each one needs."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_ghost import compat
from mindcv_ghost.doctor import devices
from mindcv_ghost.doctor.disks import check_images, check_run_folder, scratch_folder
from mindcv_ghost.doctor.environment import (
    check_compiler,
    check_cores_and_memory,
    check_shared_memory,
    check_versions,
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
from mindcv_ghost.launch.world import World
from mindcv_ghost.run.imports import importing_without_gc

if TYPE_CHECKING:
    from mindcv_ghost.doctor.trials.session import TrialSession
    from mindcv_ghost.doctor.trials.training import Prepared, Trained

__all__ = ["TrialChecks", "light_checks"]

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
        return check_versions(compat.installed_versions(), device)

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


class TrialChecks:
    """The checks for which MindSpore has to compute: one method each, and what they hand on.

    The modules of ``trials`` load MindSpore, so they are imported within the methods.

    Args:
        options: the command line.
        world: this process's place in the job.
        stack: removes the scratch folder when it is closed.
    """

    def __init__(self, options: Options, world: World, stack: contextlib.ExitStack) -> None:
        self._options, self._world, self._stack = options, world, stack
        self._system = options.config.system
        self._run_folder = Path(options.config.checkpoint.ckpt_save_dir)
        self._device: Output[str] = Output()
        self._session: Output[TrialSession] = Output()
        self._prepared: Output[Prepared] = Output()
        self._trained: Output[Trained] = Output()
        self._saved: Output[Path | None] = Output()

    def checks(self) -> list[Check]:
        """List the checks in their order, with time limits and what each one needs."""
        communication = ("cluster", "AllReduce", "gather and broadcast")
        environment = ("versions", "devices", "launcher")
        return [
            Check("devices", self._find_devices, 300, on=ONE_PER_HOST),
            Check("device of each rank", self._take_device, 600, environment),
            Check("cluster", self._join_cluster, _JOIN_SECONDS, ("device of each rank",)),
            Check("AllReduce", self._all_reduce, 600, ("cluster",)),
            Check(
                "gather and broadcast", self._gather_and_broadcast, 600, ("cluster", "AllReduce")
            ),
            Check("native code", self._native_code, _BUILD_SECONDS, ("cluster",), ONE_PER_HOST),
            Check("network", self._network, _BUILD_SECONDS, communication),
            Check("loss and gradients", self._gradients, _COMPILE_SECONDS, ("network",)),
            Check("training", self._training, _COMPILE_SECONDS, ("network",)),
            Check("equal ranks", self._equal_ranks, 600, ("training",)),
            Check("save and load", self._save_and_load, 600, ("training", "run folder")),
            Check("resume", self._resume, _COMPILE_SECONDS, ("save and load",)),
            Check("sink mode", self._sink_mode, _COMPILE_SECONDS, ("network",)),
        ]

    def _find_devices(self) -> CheckResult:
        answer, message = devices.query_mindspore()
        return devices.check_devices(answer, message, self._system.device_target, os.environ)

    def _take_device(self) -> CheckResult:
        start_scheduler(self._world)  # the scheduler starts while MindSpore loads
        with importing_without_gc():
            import mindcv_ghost.doctor.trials.training  # noqa: F401 (loads MindSpore and MindCV)
            from mindcv_ghost.run.session import take_device

        device = self._device.set(compat.resolve_device(self._system.device_target))
        number, count = take_device(self._system, device, self._world)
        what = "device of each rank"
        if count is None:
            return CheckResult(what, OK, f"all take the {device}", numbers={"device": device})
        text = f"{device}, {count} here; rank:number"
        numbers = {"device": device, "device_id": number}
        return CheckResult(what, OK, text, numbers=numbers, per_rank=f"{self._world.rank}:{number}")

    def _join_cluster(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.session import open_trial_session

        device = self._device.get()
        started = time.perf_counter()
        join(self._world, device)
        config = trial_config(self._options, device)
        self._session.set(open_trial_session(config, self._world, device, self._options.steps))
        what = "cluster"
        if self._world.size == 1:
            return CheckResult(what, SKIPPED, "only one process")
        seconds = time.perf_counter() - started
        text = f"{self._world.size} ranks joined in {seconds:.1f} s"
        return CheckResult(what, OK, text, numbers={"seconds": seconds})

    def _all_reduce(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.communication import check_all_reduce

        session = self._session.get()
        return check_all_reduce(session.collectives, session.device)

    def _gather_and_broadcast(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.communication import check_gather_and_broadcast

        return check_gather_and_broadcast(self._session.get().collectives)

    def _native_code(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.native_code import check_native_code

        return check_native_code(self._session.get())

    def _network(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.training import describe, prepare

        return describe(self._prepared.set(prepare(self._session.get())))

    def _gradients(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.gradients import check_gradients

        return check_gradients(self._session.get(), self._prepared.get().learner)

    def _training(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.training import judge_losses, train

        finished = self._trained.set(train(self._prepared.get()))
        return judge_losses("training", finished.prepared, finished.writer.rows)

    def _equal_ranks(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.training import check_equal_ranks

        return check_equal_ranks(self._prepared.get())

    def _save_and_load(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.saving import save_and_load

        if not self._world.is_main:
            self._saved.set(None)
            return CheckResult("save and load", OK)
        scratch = self._stack.enter_context(scratch_folder(self._run_folder))
        result, path = save_and_load(self._trained.get(), scratch)
        self._saved.set(path)
        return result

    def _resume(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.saving import check_resume

        return check_resume(self._trained.get(), self._saved.get())

    def _sink_mode(self) -> CheckResult:
        from mindcv_ghost.doctor.trials.training import check_sink_mode

        return check_sink_mode(self._session.get())
