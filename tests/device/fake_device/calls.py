"""Watches which cells are compiled and called from outside, and in which state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from . import record
from .register import Register
from .rules import broken
from .settings import Settings

__all__ = ["watch"]

_thread = threading.local()


def watch(settings: Settings, register: Register, is_named: Callable[[], bool]) -> None:
    """Write down each call and each compilation, let steps overflow, and look after the rules.

    Args:
        settings: when to overflow.
        register: what an overflow raises.
        is_named: whether set_device has been called.
    """
    from mindspore import nn
    from mindspore.common.api import _CellGraphExecutor

    call_cell, compile_graph = nn.Cell.__call__, _CellGraphExecutor.compile
    steps = 0

    def call(self, *inputs, **named):
        if getattr(_thread, "inside", False):
            return call_cell(self, *inputs, **named)
        nonlocal steps
        if not is_named():
            raise broken("set_device before computing", f"{type(self).__name__} is called")
        trains = type(step_of(self)).__name__ == "TrainStep"
        overflows = trains and steps in settings.overflows
        register.overflow_now(overflows)
        if trains and settings.step_seconds:
            time.sleep(settings.step_seconds)
        _thread.inside = True
        try:
            out = call_cell(self, *inputs, **named)
        finally:
            _thread.inside = False
            register.overflow_now(False)
        steps += trains
        if settings.validation_overflows and settings.saturates and is_evaluation(self):
            register.flag_up()
        facts = {
            "cell": type(self).__name__,
            "phase": self.phase,
            "training": self.training,
            "inputs": [[str(x.dtype), list(x.shape)] for x in inputs if hasattr(x, "dtype")],
            "register": register.take_events(),
        }
        if overflows:
            facts["overflows"] = True
        record.write("cell", collective=is_collective(self), **facts)
        return out

    def compile(self, obj, *inputs, **named):
        refuse_host_operators(obj, str(settings.library))
        phase, is_new = compile_graph(self, obj, *inputs, **named)
        if is_new:
            modes = sorted({cell.training for cell in norms_of(obj)})
            record.write("compile", cell=type(obj).__name__, phase=obj.phase, norms_train=modes)
        return phase, is_new

    nn.Cell.__call__ = call
    _CellGraphExecutor.compile = compile


def step_of(cell):
    """The cell itself, or the one that a data wrapper calls."""
    return cell.network if type(cell).__name__ == "DataWrapper" else cell


def is_evaluation(cell) -> bool:
    return type(cell).__name__ == "_Logits"


def norms_of(cell) -> list:
    """Cells that compute differently in training."""
    from mindspore.nn.layer.normalization import _BatchNorm

    return [each for _, each in cell.cells_and_names() if isinstance(each, _BatchNorm)]


def primitives_of(cell) -> list:
    """Primitives that a cell or one within it holds, in lists and tuples, too."""
    from mindspore.ops import Primitive

    found = []
    for _, each in cell.cells_and_names():
        values = [*each._primitives.values(), *vars(each).values()]
        for value in values:
            items = value if isinstance(value, (list, tuple)) else [value]
            found += [item for item in items if isinstance(item, Primitive)]
    return found


_collective: dict[int, bool] = {}


def is_collective(cell) -> bool:
    """Whether the cell's graph talks to other ranks."""
    known = _collective.get(id(cell))
    if known is None:
        known = any(p.name in ("AllReduce", "AllGather", "Broadcast") for p in primitives_of(cell))
        _collective[id(cell)] = known
    return known


def refuse_host_operators(cell, ours: str) -> None:
    """Refuse all Custom operators but those of the library that is part of the device."""
    for primitive in primitives_of(cell):
        if primitive.name == "Custom" and not str(primitive.func).startswith(ours):
            what = f"{type(cell).__name__} holds {primitive.func}"
            raise broken("no host operators", what)
