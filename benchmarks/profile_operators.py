"""Assign operators to the parts of a training step, and time the native operators by name."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

from mindcv_ghost.native_build import compiler_commands
from tools.pages.profile import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    COPIES,
    FINITE,
    FORWARD,
    HEAD,
    OPTIMIZER,
    SUMS,
    TAILS,
    TAILS_BACKWARD,
)

__all__ = ["Timer", "compile_timer", "part_of_native", "part_of_stock"]

# Readable names of MindSpore's operators in the tail of a Ghost module, a block or the stem.
_TAIL_WORDS = {
    "BatchNorm": "BN",
    "BatchNormGrad": "BN",
    "ReLU": "ReLU",
    "ReluGrad": "ReLU",
    "Concat": "concatenation and slices",
    "Slice": "concatenation and slices",
    "StridedSlice": "concatenation and slices",
    "StridedSliceGrad": "concatenation and slices",
    "Add": "sum with the shortcut",
    "MaxPool": "max pool",
    "MaxPoolGrad": "max pool",
}
_CONVOLUTIONS = {
    "Conv2D": FORWARD,
    "Conv2DBackpropInput": BACKWARD_INPUT,
    "Conv2DBackpropFilter": BACKWARD_WEIGHT,
}
_CUSTOM = {
    "ghost_conv": (FORWARD, "convolutions"),
    "ghost_conv_backward_input": (BACKWARD_INPUT, "convolutions"),
    "ghost_conv_backward_input_add": (BACKWARD_INPUT, "convolutions"),
    "ghost_conv_backward_weight": (BACKWARD_WEIGHT, "convolutions"),
    "ghost_update_running_statistics": (COPIES, "moving statistics"),
    "ghost_momentum": (OPTIMIZER, "ghost_momentum"),
    "ghost_mean": (HEAD, "ghost_mean"),
    "ghost_mean_backward": (HEAD, "ghost_mean"),
    "ghost_cross_entropy": (HEAD, "ghost_cross_entropy"),
    "ghost_cross_entropy_backward": (HEAD, "ghost_cross_entropy"),
    "ghost_all_finite": (FINITE, "ghost_all_finite"),
}
# Wraps each native operator under the same name; the times are queried by name.
_TIMER = """
#include <chrono>
#include <cstdint>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <string>

#define GHOST_PARAMETERS int a, void **b, int *c, int64_t **d, const char **e, void *f, void *g
using Operator = int (*)(GHOST_PARAMETERS);

static std::map<std::string, double> &spent() {
  static std::map<std::string, double> times;
  return times;
}
static std::mutex mutex;

static int timed(const char *name, Operator call, GHOST_PARAMETERS) {
  using Clock = std::chrono::steady_clock;
  const auto started = Clock::now();
  const int code = call(a, b, c, d, e, f, g);
  const std::chrono::duration<double, std::milli> took = Clock::now() - started;
  std::lock_guard<std::mutex> lock(mutex);
  spent()[name] += took.count();
  return code;
}

#define OPERATOR(NAME)                                                                         \\
  extern "C" int NAME(GHOST_PARAMETERS) {                                                        \\
    static const auto call = reinterpret_cast<Operator>(dlsym(dlopen(LIBRARY, RTLD_NOW), #NAME)); \\
    return timed(#NAME, call, a, b, c, d, e, f, g);                                             \\
  }

extern "C" void timer_reset() { spent().clear(); }
extern "C" double timer_milliseconds(const char *name) { return spent()[name]; }
"""


class Timer:
    """A library whose operators call the native ones of the same name and add up their time."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._library, self._names = ctypes.CDLL(str(path)), names
        self._library.timer_milliseconds.restype = ctypes.c_double

    def reset(self) -> None:
        """Set all times to zero."""
        self._library.timer_reset()

    def milliseconds(self) -> dict[str, float]:
        """Return the time in each operator that was called."""
        times = {n: self._library.timer_milliseconds(n.encode()) for n in self._names}
        return {name: value for name, value in times.items() if value}


def compile_timer(folder: Path) -> Timer:
    """Make every later ``ops.Custom`` of this process call a native operator through the timer.

    Args:
        folder: for the library; it has to exist as long as the process's networks do.

    Raises:
        SystemExit: if there are no native operators here.
    """
    from mindspore import ops

    from mindcv_ghost.kernels import library

    try:
        real = library.load(library.threads_for(1))
    except library.Unavailable as error:
        raise SystemExit(f"no native operators: {error}") from None
    sources = sorted(library.SOURCES.glob("*.cc"))
    names = [
        name
        for source in sources
        for name in re.findall(r"^int (ghost_\w+)\(GHOST_PARAMETERS\)", source.read_text(), re.M)
    ]
    source, path = folder / "timer.cc", folder / "timer.so"
    lines = [f'#define LIBRARY "{real.path}"', _TIMER, *(f"OPERATOR({name})" for name in names)]
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(compiler_commands(library.FLAGS, [source], path)[-1], check=True)
    initialise = ops.Custom.__init__

    def timed(self, func: str, *arguments, **named) -> None:
        path_part, _, name = func.rpartition(":")
        if path_part == str(real.path) and name in names:
            func = f"{path}:{name}"
        initialise(self, func, *arguments, **named)

    ops.Custom.__init__ = timed
    return Timer(path, names)


def part_of_native(name: str) -> tuple[str, str]:
    """Return the part of the step, and the name to show, of a native operator.

    >>> part_of_native("ghost_tail_add_backward")
    ('Ghost and stem tails, backward', 'ghost_tail_add')
    """
    if name in _CUSTOM:
        return _CUSTOM[name]
    forward = name.replace("_backward", "")
    return (TAILS if forward == name else TAILS_BACKWARD), forward


def part_of_stock(kind: str, scope: str) -> tuple[str, str]:
    """Return the part of the step, and the name to show, of a MindSpore operator.

    Args:
        kind: its type, such as ``Conv2D``.
        scope: its full name, which contains the names of its cells.
    """
    if "/updater-" in scope:
        if "/optimizer-" in scope:
            return OPTIMIZER, "momentum"
        return FINITE, "MindSpore's operators"
    if kind in _CONVOLUTIONS:
        if "/cheap-" not in scope:
            return _CONVOLUTIONS[kind], "convolutions"
        return (TAILS if kind == "Conv2D" else TAILS_BACKWARD), "depthwise convolutions"
    if kind in ("Assign", "TensorMove"):
        return COPIES, "assignments and copies"
    if "/loss-" in scope or "/classifier-" in scope:
        return HEAD, "MindSpore's operators"
    if kind == "AddN":
        return SUMS, "sums of gradients"
    if kind in _TAIL_WORDS:
        backward = scope.startswith("Gradients/") or kind == "Slice" or kind.endswith("Grad")
        return (TAILS_BACKWARD if backward else TAILS), _TAIL_WORDS[kind]
    return HEAD, "MindSpore's operators"
