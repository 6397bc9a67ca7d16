"""The device's overflow register and its arithmetic, as operators of the CPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

from .host import on_host
from .settings import Settings

__all__ = ["OverflowRegister", "all_finite", "build", "float_status", "operators"]

_SOURCE = Path(__file__).with_name("register.cc")
_EVENTS = 4096


def build(folder: Path, compiler: str) -> Path:
    """Compile the operators; returns the library's path."""
    path = folder / "fake_device.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-std=c++17", str(_SOURCE), "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


class OverflowRegister:
    """The process's overflow register, accessed from outside the graphs."""

    def __init__(self, settings: Settings) -> None:
        # MindSpore loads the same library, so both access the same variables.
        self._library = ctypes.CDLL(str(settings.library))
        self._library.fake_set_saturates(int(settings.saturates))

    def set_overflows(self, value: bool) -> None:
        """Make gradients overflow from now on, or stop doing so."""
        self._library.fake_set_overflows(int(value))

    def raise_flag(self) -> None:
        """Raise the flag, as an operator does whose result is too large."""
        self._library.fake_raise()

    @property
    def is_raised(self) -> bool:
        return bool(self._library.fake_flag())

    def take_events(self) -> str:
        """Return the events since the last call: C for cleared, G for read (get), R for raised."""
        buffer = ctypes.create_string_buffer(_EVENTS)
        count = self._library.fake_take_events(buffer)
        return buffer.raw[:count].decode()


def operators(path: Path) -> tuple[type, type, type]:
    """Return operators that clear and read the register, and a cell for a device's gradients."""
    from mindspore import dtype as mstype
    from mindspore import nn, ops

    def same(x):
        return x

    class Operator(ops.Custom):
        name_in_library = ""

        def __init__(self) -> None:
            with on_host():
                super().__init__(f"{path}:{self.name_in_library}", same, same, func_type="aot")

    class NPUClearFloatStatusV2(Operator):
        name_in_library = "fake_clear_status"

    class NPUGetFloatStatusV2(Operator):
        name_in_library = "fake_get_status"

    class Gradient(Operator):
        name_in_library = "fake_gradient"

    class Gradients(nn.Cell):
        """Wraps the result of ``ops.value_and_grad``; gradients are those of the device."""

        def __init__(self, function) -> None:
            super().__init__(auto_prefix=False)
            self.function = function
            self.gradient = Gradient()

        def construct(self, *inputs):
            value, gradients = self.function(*inputs)
            seen = ()
            for gradient in gradients:
                if gradient.dtype == mstype.float32:
                    gradient = self.gradient(gradient)
                seen += (gradient,)
            return value, seen

    return NPUClearFloatStatusV2, NPUGetFloatStatusV2, Gradients


def float_status(path: Path) -> type:
    """Return a GPU's ``FloatStatus``, float32 -> float32 (1,): 1 if a value isn't finite."""
    from mindspore import ops

    class FloatStatus(ops.Custom):
        def __init__(self) -> None:
            with on_host():
                super().__init__(
                    f"{path}:fake_float_status", lambda x: [1], lambda x: x, func_type="aot"
                )

    return FloatStatus


def all_finite() -> Callable:
    """Return Ascend's ``AllFinite``: whether any of some tensors has a value that isn't finite."""
    from mindspore import ops

    def any_value_is_not_finite(tensors):
        flags = ()
        for tensor in tensors:
            flags += (ops.isfinite(tensor).all(),)
        return ops.logical_not(ops.stack(flags).all())

    def make():
        return any_value_is_not_finite

    return make
