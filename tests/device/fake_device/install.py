"""Puts the stand-ins in their places, right after MindSpore has been imported."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from . import queue, record, register
from .calls import watch
from .host import is_on_host, on_host
from .rules import broken
from .settings import Settings

__all__ = ["install", "note_end"]


def install(settings: Settings) -> None:
    """Make this process's MindSpore believe in the device. Call it once."""
    import mindspore
    from mindspore import device_manager
    from mindspore._c_expression import MSContext
    from mindspore.communication import management
    from mindspore.dataset.engine import datasets
    from mindspore.ops.operations import math_ops
    from mindspore.train import dataset_helper

    record.start(settings.log, settings.rank)
    record.write("host", device=settings.device, devices=settings.devices, rank=settings.rank)
    named = Named(settings)
    _note_tensors(named)
    _install_plugin(settings, MSContext)
    device_manager.MSContext = _target_setter(settings, device_manager.MSContext)
    device_manager.DeviceManagerConf = SimpleNamespace(get_instance=lambda: named)
    _install_context(settings, named)
    _everywhere(management.init, _init(settings, named, management.init))

    overflow = register.Register(settings)
    clear, get, gradients = register.stand_ins(settings.library)
    for module in (math_ops, mindspore.amp):
        module.NPUClearFloatStatusV2, module.NPUGetFloatStatusV2 = clear, get
    value_and_grad = mindspore.ops.value_and_grad

    def device_value_and_grad(*arguments, **more):
        return gradients(value_and_grad(*arguments, **more))

    mindspore.ops.value_and_grad = device_value_and_grad
    mindspore.ops.FloatStatus = register.float_status(settings.library)
    mindspore.amp.AllFinite = register.all_finite()
    # The CPU has nothing under way when a call returns.
    mindspore.runtime.synchronize = lambda: None

    datasets._ToDevice = queue.sender_class(settings.queue, settings.device)
    dataset_helper._DataWrapper = queue.wrapper_class()
    executor = mindspore.common.api._CellGraphExecutor
    executor.init_dataset = lambda self, *args, **named: record.write("init_dataset")
    watch(settings, overflow, named.is_device_enable)


def _note_tensors(named: Named) -> None:
    """Note who makes a Tensor before init(); MindCV's modules make three when they are imported.

    Its own train.py imports them before init(), too, and was run on eight Ascends.
    """
    from mindspore import Tensor

    make = Tensor.__init__

    def noted(self, *arguments, **more):
        if named.initialised is None:
            frame = sys._getframe(1)
            while frame and {"mindspore", "importlib"} & set(Path(frame.f_code.co_filename).parts):
                frame = frame.f_back
            if frame and "mindcv" not in Path(frame.f_code.co_filename).parts:
                named.early_tensors.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
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
    """A plug-in for the device, and its driver (wheel: device_context/*/device.py)."""
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


class Named:
    """In the place of ``DeviceManagerConf``: which device set_device has named.

    It is the real ``set_device`` that asks and refuses (wheel: device_manager.py:42).
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
        raise broken("device id in range", f"device {number} of {devices}")


def _take_device(settings: Settings, number: int) -> None:
    """Make sure that no other rank has this device: whoever takes it leaves a file."""
    if settings.log is not None:
        try:
            (settings.log / f"device{number}").touch(exist_ok=False)
        except FileExistsError:
            raise broken("one rank a device", f"another rank has device {number}") from None


def _target_setter(settings: Settings, real: type):
    def set_target(target: str) -> None:
        if target not in ("CPU", settings.device):
            raise RuntimeError(f"Unsupported device target {target}.")
        real.get_instance().set_device_target_inner("CPU")

    instance = SimpleNamespace(set_device_target_inner=set_target)
    return SimpleNamespace(get_instance=lambda: instance)


def _install_context(settings: Settings, named: Named) -> None:
    from mindspore import context

    real_get, real_set, real_jit = context.get_context, context.set_context, context.get_jit_config
    asked: dict = {}

    def get_context(key):
        if not is_on_host():
            if key == "device_target":
                return named.target
            if key == "device_id":
                return named.id
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
    """Wake MindSpore's CPU collectives from their sleep(3), which no device's have."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _init(settings: Settings, named: Named, real):
    """communication.init() of HCCL and NCCL: its rules, and MindSpore's CPU collectives."""

    def init(*arguments, **more):
        from mindspore._c_expression import DeviceContextManager

        rank = int(os.environ.get("MS_NODE_ID") or 0)
        record.write("init", rank=rank, id=named.id, is_default=named.is_default)
        if named.target == "CPU":
            return real(*arguments, **more)
        if named.initialised:
            raise broken("init once", "communication.init() is called a second time")
        if not named.is_device_enable():
            raise broken("init after set_device", "no device has been named")
        cpu = DeviceContextManager.get_instance().get_device_context("CPU")
        if cpu is not None and cpu.initialized():
            raise broken("init before computing", "an operator has run before init()")
        if named.early_tensors:
            what = f"made before init(): {', '.join(named.early_tensors[:3])}"
            raise broken("init before tensors", what)
        if os.environ.get("RANK_TABLE_FILE"):
            raise broken("no left-over rank table", "RANK_TABLE_FILE is set")
        if named.is_default:
            # collective_manager.cc, AssignLocalRank: a number that set_device has named is kept,
            # and else the device is the rank among those of its host (here, all ranks).
            named.id = rank
        check_id(named.id, settings.devices)
        _take_device(settings, settings.physical(named.id))
        with on_host(), _short_sleeps():
            real(*arguments, **more)
        named.initialised = True
        return None

    return init


def note_end() -> None:
    """Have each rank write down what it holds at a training's end; call when there is a Trainer."""
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
