"""What a compiled graph depends on, as one number: two cells with one key have one graph.

MindSpore compiles the numbers that it finds in a cell into the graph. So the key covers not only
the code but all that hangs on the cell: every attribute, constant tensor (by its bytes), operator
(by its attributes), parameter (by name, shape and type; its values stay outside the graph) and
child, in order; and the plain values among the names of classes and modules. What isn't understood
goes in by the name of its type; the code that uses it goes in by its bytes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import site
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.ops import Primitive

__all__ = ["graph_key", "sources_digest"]

_WHOLE_PACKAGES = ("mindcv_ghost", "mindcv")
# What MindSpore and launchers set anew for each job, or where files lie; no graph reads it.
_FREE_VARIABLES = (
    *("MS_SCHED", "MS_NODE", "MS_ROLE", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_RETRY", "MS_TOPO"),
    *("MS_RECEIVE", "MS_HEARTBEAT", "MS_COMPILER_CACHE", "MS_CLUSTER"),
)
_CONTEXT = ("mode", "device_target", "jit_config", "deterministic", "enable_graph_kernel")
_PARALLEL = ("parallel_mode", "device_num", "gradients_mean", "all_reduce_fusion_config")
_DEEPEST = 40
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # cells keep their arguments as text
_BY_NAME = (types.ModuleType, logging.Logger, logging.Handler)
# A cell's own bookkeeping: clocks, counts, and what it has already compiled.
_BOOKKEEPING = {
    *("_params", "_cells", "_params_list", "_scope", "_compile_phase", "_create_time", "_id"),
    *("arguments_key", "_compile_cache", "_phase_cache", "_exist_objs", "_exist_names"),
    *("_lazy_construct_sig", "_jit_graph_name", "_compiled", "_init_flag", "_phase"),
    *("_is_check_and_refresh", "_param_prefix", "compile_cache", "_attr_synced", "_buffers"),
}


def graph_key(cell: nn.Cell, inputs: tuple, facts: Mapping) -> str:
    """A SHA-256 (hexadecimal) of everything that decides the graph of ``cell(*inputs)``.

    Args:
        cell: is about to be compiled.
        inputs: tensors of the shapes and types to compile for; their values don't count.
        facts: what else the graph depends on, as JSON could hold it: versions, configuration,
            rank and number of ranks, device, the digest of a library of operators.
    """
    walk = _Walk()
    walk.add("facts", {name: facts[name] for name in sorted(facts)})
    walk.add("sources", sources_digest())
    walk.add("globals", _globals())
    walk.add("inputs", [(tuple(x.shape), str(x.dtype)) for x in inputs])
    walk.add("environment", _environment())
    walk.add("context", {name: _ask(ms.get_context, name) for name in _CONTEXT})
    walk.add("parallel", {name: _ask(ms.get_auto_parallel_context, name) for name in _PARALLEL})
    walk.add("cell", cell)
    return walk.digest.hexdigest()


def sources_digest() -> str:
    """A digest of the Python code that may be compiled: this package, MindCV, and the user's.

    All files of the two packages, and every loaded module that isn't installed (a user's network,
    the script). Of what is installed beside them the versions say enough (``facts``).
    """
    digest = hashlib.sha256()
    for name, path in sorted(_sources().items()):
        try:
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            digest.update(f"{name}\0unreadable {os.urandom(8).hex()}".encode())  # never equal
    return digest.hexdigest()


def _sources() -> dict[str, Path]:
    found = {}
    for package in (name for name in _WHOLE_PACKAGES if name in sys.modules):
        folder = Path(sys.modules[package].__file__).parent
        for path in folder.rglob("*.py"):
            found[f"{package}/{path.relative_to(folder)}"] = path
    paths = sysconfig.get_paths()
    installed = [paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"]]
    installed = tuple(os.path.join(p, "") for p in [*installed, *site.getsitepackages()])
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # A module may have a made-up file ("_ops.py"), never with a whole path.
        if not file or not file.endswith(".py") or not os.path.isabs(file):
            continue
        if file.startswith(installed):
            continue
        if name.split(".")[0] not in _WHOLE_PACKAGES:
            found[name] = Path(file)
    return found


def _globals() -> list[str]:
    """Plain values of those modules' own names: what ``construct`` finds there is compiled in."""
    names = {name for name in sys.modules if name.split(".")[0] in _WHOLE_PACKAGES}
    names |= {name for name in _sources() if name in sys.modules}
    found = []
    for module in sorted(names):
        for name, value in sorted(vars(sys.modules[module]).items()):
            if not name.startswith("__") and _is_plain(value):
                found.append(f"{module}.{name}={value!r}")
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, bytes))


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("MS_") and not name.startswith(_FREE_VARIABLES) and "TIMEOUT" not in name
    }


def _ask(getter, name: str) -> str:
    try:
        return str(getter(name))
    except (ValueError, KeyError, RuntimeError):  # this release has no such setting
        return "none"


class _Walk:
    """Feeds a digest with whatever hangs on an object, each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._held: list = []  # an object that died would give its id to another

    def add(self, name: str, value: object, depth: int = 0) -> None:
        """Add a named value."""
        self._say(f"{name}=")
        if name == "hash_obj":  # what MindSpore's jit names by the clock
            return
        if isinstance(value, str):
            self._say("str " + _ADDRESS.sub("", value))
        elif value is None or isinstance(value, (bool, int, float, bytes, complex)):
            self._say(f"{type(value).__name__} {value!r}")
        elif isinstance(value, (np.generic, np.ndarray)):
            self._numbers(np.asarray(value))
        elif isinstance(value, type):
            self._say(f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, (type(ms.float32), types.BuiltinFunctionType)):
            self._say(str(value) if not callable(value) else value.__qualname__)
        elif depth > _DEEPEST:
            raise RecursionError(f"{name} lies more than {_DEEPEST} objects deep in the cell")
        elif id(value) in self._seen:
            self._say(f"again {self._seen[id(value)]}")
        else:
            self._seen[id(value)] = len(self._seen)
            self._held.append(value)
            self._object(value, depth + 1)

    def _object(self, value: object, depth: int) -> None:
        kind = type(value)
        self._say(f"{kind.__module__}.{kind.__qualname__}")
        if isinstance(value, ms.Parameter):
            self._say(f"{value.name} {tuple(value.shape)} {value.dtype} {value.requires_grad}")
        elif isinstance(value, ms.Tensor):
            self._numbers(value.asnumpy())
        elif isinstance(value, nn.Cell):
            self._cell(value, depth)
        elif isinstance(value, Primitive):
            self.add("attributes", value.attrs, depth)
            self.add("fields", vars(value), depth)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                self.add(str(key), value[key], depth)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.add("item", item, depth)
        elif isinstance(value, (set, frozenset)):
            self._say(" ".join(sorted(str(item) for item in value)))
        elif isinstance(value, functools.partial):
            self.add("partial", (value.func, value.args, value.keywords), depth)
        elif isinstance(value, types.MethodType):
            self.add("function", value.__func__, depth)
            self.add("owner", value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif hasattr(value, "__dict__") and not isinstance(value, _BY_NAME):
            self.add("fields", vars(value), depth)

    def _cell(self, cell: nn.Cell, depth: int) -> None:
        self.add("flags", cell.get_flags(), depth)
        for kind in type(cell).__mro__[: type(cell).__mro__.index(nn.Cell)]:
            for name, value in sorted(vars(kind).items()):
                if not name.startswith("__") and _is_plain(value):
                    self.add(name, value, depth)
        for name in ("_params", "_cells"):
            for key, child in vars(cell)[name].items():
                self.add(key, child, depth)
        for name, value in sorted(vars(cell).items()):
            # Compiling, which a kept graph saves, leaves empty dicts of hooks behind.
            empty = value is None or (isinstance(value, Mapping) and not value)
            if name not in _BOOKKEEPING and not empty:
                self.add(name, value, depth)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        code = function.__code__
        self._say(f"{function.__module__}.{function.__qualname__} {code.co_code.hex()}")
        self.add("defaults", (function.__defaults__, function.__kwdefaults__), depth)
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            try:
                self.add(name, cell.cell_contents, depth)
            except ValueError:  # not bound yet
                self._say("unbound")

    def _numbers(self, array: np.ndarray) -> None:
        self._say(f"{array.dtype} {array.shape}")
        self.digest.update(np.ascontiguousarray(array).tobytes())

    def _say(self, text: str) -> None:
        self.digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
