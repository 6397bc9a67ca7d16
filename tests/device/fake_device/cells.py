"""Records which cells are compiled and called, and in which state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from . import record
from .register import OverflowRegister
from .rules import violation
from .settings import Settings

__all__ = ["record_cells"]

_thread = threading.local()


def record_cells(
    settings: Settings, register: OverflowRegister, device_is_set: Callable[[], bool]
) -> None:
    """Record calls and compilations of cells, make steps overflow, and check rules.

    Args:
        settings: which steps overflow.
        register: of the device; an overflow raises its flag.
        device_is_set: whether set_device has been called.
    """
    from mindspore import nn
    from mindspore.common.api import _CellGraphExecutor

    call_cell, compile_graph = nn.Cell.__call__, _CellGraphExecutor.compile
    steps = 0

    def call(self, *inputs, **named):
        if getattr(_thread, "inside", False):
            return call_cell(self, *inputs, **named)
        nonlocal steps
        if not device_is_set():
            raise violation("set_device before computing", f"{type(self).__name__} is called")
        trains = type(step_of(self)).__name__ == "TrainStep"
        overflows = trains and steps in settings.overflows
        register.set_overflows(overflows)
        if trains and settings.step_seconds:
            time.sleep(settings.step_seconds)
        _thread.inside = True
        try:
            out = call_cell(self, *inputs, **named)
        finally:
            _thread.inside = False
            register.set_overflows(False)
        steps += trains
        if settings.validation_overflows and settings.saturates and is_evaluation(self):
            register.raise_flag()
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
    """Return the cell, or the one that a data wrapper calls."""
    return cell.network if type(cell).__name__ == "DataWrapper" else cell


def is_evaluation(cell) -> bool:
    return type(cell).__name__ == "Logits"


def norms_of(cell) -> list:
    """Find batch norms, which compute differently in training."""
    from mindspore.nn.layer.normalization import _BatchNorm

    return [each for _, each in cell.cells_and_names() if isinstance(each, _BatchNorm)]


def primitives_of(cell) -> list:
    """Find the primitives of a cell and of those within it, including those in lists and tuples."""
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
    """Return whether the cell's graph communicates with other ranks."""
    known = _collective.get(id(cell))
    if known is None:
        known = any(p.name in ("AllReduce", "AllGather", "Broadcast") for p in primitives_of(cell))
        _collective[id(cell)] = known
    return known


def refuse_host_operators(cell, library: str) -> None:
    """Refuse Custom operators, except those of the fake device's library."""
    for primitive in primitives_of(cell):
        if primitive.name == "Custom" and not str(primitive.func).startswith(library):
            what = f"{type(cell).__name__} holds {primitive.func}"
            raise violation("no host operators", what)
