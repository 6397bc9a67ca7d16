"""Replaces MindSpore's device functions, right after MindSpore has been imported."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from . import data_queue, record, register
from .cells import record_cells
from .host import is_on_host, on_host
from .rules import violation
from .settings import Settings

__all__ = ["install", "record_end"]


def install(settings: Settings) -> None:
    """Give this process's MindSpore a fake device. Call it once."""
    import mindspore
    from mindspore import device_manager
    from mindspore._c_expression import MSContext
    from mindspore.communication import management
    from mindspore.dataset.engine import datasets
    from mindspore.ops.operations import math_ops
    from mindspore.train import dataset_helper

    record.start(settings.log, settings.rank)
    record.write("host", device=settings.device, devices=settings.devices, rank=settings.rank)
    manager = DeviceManager(settings)
    _note_tensors(manager)
    _install_plugin(settings, MSContext)
    device_manager.MSContext = _target_setter(settings, device_manager.MSContext)
    device_manager.DeviceManagerConf = SimpleNamespace(get_instance=lambda: manager)
    _install_context(settings, manager)
    _everywhere(management.init, _init(settings, manager, management.init))

    overflow = register.OverflowRegister(settings)
    clear, get, gradients = register.operators(settings.library)
    for module in (math_ops, mindspore.amp):
        module.NPUClearFloatStatusV2, module.NPUGetFloatStatusV2 = clear, get
    value_and_grad = mindspore.ops.value_and_grad

    def device_value_and_grad(*arguments, **more):
        return gradients(value_and_grad(*arguments, **more))

    mindspore.ops.value_and_grad = device_value_and_grad
    mindspore.ops.FloatStatus = register.float_status(settings.library)
    mindspore.amp.AllFinite = register.all_finite()
    # On the CPU a call returns when its work is done.
    mindspore.runtime.synchronize = lambda: None

    datasets._ToDevice = data_queue.sender_class(settings.queue, settings.device)
    dataset_helper._DataWrapper = data_queue.wrapper_class()
    executor = mindspore.common.api._CellGraphExecutor
    executor.init_dataset = lambda self, *args, **named: record.write("init_dataset")
    record_cells(settings, overflow, manager.is_device_enable)


def _note_tensors(manager: DeviceManager) -> None:
    """Note where a Tensor is created before init(), except in MindCV.

    MindCV's modules create three on import. MindCV's own train.py imports them before init(), too,
    and was run on eight Ascends.
    """
    from mindspore import Tensor

    make = Tensor.__init__

    def noted(self, *arguments, **more):
        if manager.initialised is None:
            frame = sys._getframe(1)
            while frame and {"mindspore", "importlib"} & set(Path(frame.f_code.co_filename).parts):
                frame = frame.f_back
            if frame and "mindcv" not in Path(frame.f_code.co_filename).parts:
                manager.early_tensors.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        make(self, *arguments, **more)

    Tensor.__init__ = noted


def _everywhere(old, new) -> None:
    """Replace a function in each of MindSpore's modules that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "mindspore":
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)


def _install_plugin(settings: Settings, context: type) -> None:
    """Replace the device's plug-in and its driver (wheel: device_context/*/device.py)."""
    from mindspore.device_context.ascend import device as ascend
    from mindspore.device_context.gpu import device as gpu

    def count() -> int:
        if settings.devices is None:
            name = {"Ascend": "aclrtGetDeviceCount", "GPU": "cudaGetDeviceCount"}[settings.device]
            raise RuntimeError(f"Call {name} failed")
        return settings.devices

    ascend.ascend_get_device_count = gpu.gpu_get_device_count = count
    context.is_pkg_support_device = lambda self, name: name in ("CPU", settings.device)
    context.get_ascend_soc_version = lambda self: settings.chip


class DeviceManager:
    """Replaces ``DeviceManagerConf``, which stores the device that set_device has chosen.

    The checks are those of the real ``set_device`` (wheel: device_manager.py:42).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.target, self.id, self.is_default, self.enabled = settings.device, 0, True, False
        self.initialised: bool | None = None
        self.early_tensors: list[str] = []

    def is_device_enable(self) -> bool:
        return self.enabled

    def get_device_target(self) -> str:
        return self.target

    def get_device_id(self) -> int:
        return self.id

    def set_device(self, target: str, number: int, is_default: bool) -> None:
        record.write("set_device", target=target, id=number, is_default=is_default)
        if target != "CPU":
            check_id(number, self._settings.devices)
        self.target, self.id, self.is_default, self.enabled = target, number, is_default, True

    def set_deterministic(self, value: bool) -> None:
        record.write("set_deterministic", value=value)

    def is_deterministic_configured(self) -> bool:
        return False


def check_id(number: int, devices: int | None) -> None:
    if number >= (devices or 0):
        raise violation("device id in range", f"device {number} of {devices}")


def _take_device(settings: Settings, number: int) -> None:
    """Claim a device for this rank by creating a file; fails if another rank has claimed it."""
    if settings.log is not None:
        try:
            (settings.log / f"device{number}").touch(exist_ok=False)
        except FileExistsError:
            raise violation("one rank a device", f"another rank has device {number}") from None


def _target_setter(settings: Settings, real: type):
    def set_target(target: str) -> None:
        if target not in ("CPU", settings.device):
            raise RuntimeError(f"Unsupported device target {target}.")
        real.get_instance().set_device_target_inner("CPU")

    instance = SimpleNamespace(set_device_target_inner=set_target)
    return SimpleNamespace(get_instance=lambda: instance)


def _install_context(settings: Settings, manager: DeviceManager) -> None:
    from mindspore import context

    real_get, real_set, real_jit = context.get_context, context.set_context, context.get_jit_config
    asked: dict = {}

    def get_context(key):
        if not is_on_host():
            if key == "device_target":
                return manager.target
            if key == "device_id":
                return manager.id
        return real_get(key)

    def set_context(**values):
        record.write("set_context", **{key: str(value) for key, value in values.items()})
        if values.get("jit_config"):
            asked.update(values["jit_config"])
            values["jit_config"] = {**values["jit_config"], "jit_level": "O0"}
        return real_set(**values)

    def get_jit_config():
        return real_jit() if is_on_host() else dict(asked)

    _everywhere(real_get, get_context)
    _everywhere(real_set, set_context)
    _everywhere(real_jit, get_jit_config)


@contextlib.contextmanager
def _short_sleeps() -> Iterator[None]:
    """Interrupt sleep(3) in MindSpore's CPU collectives; a device's collectives don't sleep."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _init(settings: Settings, manager: DeviceManager, real):
    """Replace communication.init(): check the rules of HCCL and NCCL, then start the CPU's."""

    def init(*arguments, **more):
        from mindspore._c_expression import DeviceContextManager

        rank = int(os.environ.get("MS_NODE_ID") or 0)
        record.write("init", rank=rank, id=manager.id, is_default=manager.is_default)
        if manager.target == "CPU":
            return real(*arguments, **more)
        if manager.initialised:
            raise violation("init once", "communication.init() is called a second time")
        if not manager.is_device_enable():
            raise violation("init after set_device", "no device has been named")
        cpu = DeviceContextManager.get_instance().get_device_context("CPU")
        if cpu is not None and cpu.initialized():
            raise violation("init before computing", "an operator has run before init()")
        if manager.early_tensors:
            what = f"made before init(): {', '.join(manager.early_tensors[:3])}"
            raise violation("init before tensors", what)
        if os.environ.get("RANK_TABLE_FILE"):
            raise violation("no left-over rank table", "RANK_TABLE_FILE is set")
        if manager.is_default:
            # collective_manager.cc, AssignLocalRank: a number given to set_device is kept; else
            # the number is the rank's place on its host (here, all ranks are on one host).
            manager.id = rank
        check_id(manager.id, settings.devices)
        _take_device(settings, settings.physical(manager.id))
        with on_host(), _short_sleeps():
            real(*arguments, **more)
        manager.initialised = True
        return None

    return init


def record_end() -> None:
    """Record each rank's state at the end of a training; call once engine.trainer is imported."""
    from mindcv_ghost.engine.trainer import Trainer

    run = Trainer.run

    def noted(self):
        summary = run(self)
        parameters = self.state.parameters
        record.write(
            "end",
            updates=self.step.updates_done,
            scale=self.step.scale,
            state={
                name: hashlib.sha256(p.asnumpy().tobytes()).hexdigest()[:16]
                for name, p in parameters.items()
                if name not in self.state.per_rank
            },
        )
        return summary

    Trainer.run = noted
