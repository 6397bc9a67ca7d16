"""Key of a compiled graph: a digest of everything that the graph depends on.

Two cells with the same key have the same graph. MindSpore compiles the numbers that it finds in a
cell into the graph, so the code alone isn't enough. The key is made of

- the cell, attribute by attribute and child by child, in order: constant tensors by their bytes,
  operators by their attributes, parameters by name, shape and type (their values aren't in the
  graph), functions by their bytecode, any other object by its type and attributes;
- constants (numbers, strings and tuples or lists of them) of the cells' classes and of the modules;
- the source files of this package, of MindCV, and of loaded modules that aren't installed;
- shapes and types of the inputs, MindSpore's context and its ``MS_*`` environment variables;
- ``facts`` from the caller: versions, configuration, ranks, device.
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
from collections.abc import Callable, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.ops import Primitive

__all__ = ["graph_key", "sources_digest"]

_WHOLE_PACKAGES = ("mindcv_ghost", "mindcv")
# Prefixes of variables that differ between jobs, or name files. No graph depends on them.
_IGNORED_VARIABLES = (
    *("MS_SCHED", "MS_NODE", "MS_ROLE", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_RETRY", "MS_TOPO"),
    *("MS_RECEIVE", "MS_HEARTBEAT", "MS_COMPILER_CACHE", "MS_CLUSTER"),
)
_CONTEXT = ("mode", "device_target", "jit_config", "deterministic", "enable_graph_kernel")
_PARALLEL = ("parallel_mode", "device_num", "gradients_mean", "all_reduce_fusion_config")
_MAX_DEPTH = 40
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # cells keep their arguments as strings
_BY_TYPE_ALONE = (types.ModuleType, logging.Logger, logging.Handler)
# Attributes of a cell that aren't in the graph: times, counters, what it has already compiled.
_BOOKKEEPING = {
    *("_params", "_cells", "_params_list", "_scope", "_compile_phase", "_create_time", "_id"),
    *("arguments_key", "_compile_cache", "_phase_cache", "_exist_objs", "_exist_names"),
    *("_lazy_construct_sig", "_jit_graph_name", "_compiled", "_init_flag", "_phase"),
    *("_is_check_and_refresh", "_param_prefix", "compile_cache", "_attr_synced", "_buffers"),
}


def graph_key(cell: nn.Cell, inputs: tuple, facts: Mapping) -> str:
    """Return a SHA-256 (hexadecimal) of everything that the graph of ``cell(*inputs)`` depends on.

    Args:
        cell: the cell to compile.
        inputs: tensors of the shapes and types to compile for; their values don't matter.
        facts: what else the graph depends on, as values that JSON can hold: versions,
            configuration, rank and number of ranks, device, digest of a library of operators.

    Raises:
        RecursionError: if objects are nested too deeply in the cell.
    """
    walk = _Walk()
    walk.add("facts", {name: facts[name] for name in sorted(facts)})
    walk.add("sources", sources_digest())
    walk.add("globals", _module_constants())
    walk.add("inputs", [(tuple(x.shape), str(x.dtype)) for x in inputs])
    walk.add("environment", _environment())
    walk.add("context", {name: _setting(ms.get_context, name) for name in _CONTEXT})
    walk.add("parallel", {name: _setting(ms.get_auto_parallel_context, name) for name in _PARALLEL})
    walk.add("cell", cell)
    return walk.digest.hexdigest()


def sources_digest() -> str:
    """Return a digest of the Python sources that may be compiled.

    These are all files of this package and of MindCV, and all loaded modules that aren't installed
    (a user's network, the script). Other installed packages are covered by their versions in
    ``facts``.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_sources().items()):
        try:
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            # Unique, so that no kept graph is used.
            digest.update(f"{name}\0unreadable {os.urandom(8).hex()}".encode())
    return digest.hexdigest()


def _sources() -> dict[str, Path]:
    found = {}
    for package in (name for name in _WHOLE_PACKAGES if name in sys.modules):
        folder = Path(sys.modules[package].__path__[0])
        for path in folder.rglob("*.py"):
            found[f"{package}/{path.relative_to(folder)}"] = path
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(paths[name] for name in names), *site.getsitepackages()]
    installed = tuple(os.path.join(folder, "") for folder in folders)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # Some modules have an invented file name ("_ops.py"), but never with an absolute path.
        if not file or not file.endswith(".py") or not os.path.isabs(file):
            continue
        if file.startswith(installed):
            continue
        if name.split(".")[0] not in _WHOLE_PACKAGES:
            found[name] = Path(file)
    return found


def _module_constants() -> list[str]:
    """List the constants of these modules: those that ``construct`` reads are in the graph."""
    names = {name for name in sys.modules if name.split(".")[0] in _WHOLE_PACKAGES}
    names |= {name for name in _sources() if name in sys.modules}
    found = []
    for module in sorted(names):
        for name, value in sorted(vars(sys.modules[module]).items()):
            if not name.startswith("__") and _is_plain(value):
                found.append(f"{module}.{name}={value!r}")
    return found


def _is_plain(value: object) -> bool:
    """Tell whether a value is a constant, or a list or tuple of constants."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, bytes))


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("MS_")
        and not name.startswith(_IGNORED_VARIABLES)
        and "TIMEOUT" not in name
    }


def _setting(getter: Callable[[str], object], name: str) -> str:
    try:
        return str(getter(name))
    except (ValueError, KeyError, RuntimeError):  # this release has no such setting
        return "none"


class _Walk:
    """Feeds a digest with values, and with everything that they refer to; each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._held: list[object] = []  # keeps the objects alive, so that their ids stay unique

    def add(self, name: str, value: object, depth: int = 0) -> None:
        """Add a named value."""
        self._feed(f"{name}=")
        if name == "hash_obj":  # MindSpore's jit puts the time into it
            return
        if isinstance(value, str):
            self._feed("str " + _ADDRESS.sub("", value))
        elif value is None or isinstance(value, (bool, int, float, bytes, complex)):
            self._feed(f"{type(value).__name__} {value!r}")
        elif isinstance(value, (np.generic, np.ndarray)):
            self._numbers(np.asarray(value))
        elif isinstance(value, type):
            self._feed(f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, (type(ms.float32), types.BuiltinFunctionType)):
            self._feed(str(value) if not callable(value) else value.__qualname__)
        elif depth > _MAX_DEPTH:
            raise RecursionError(
                f"{name} is nested more than {_MAX_DEPTH} objects deep in the cell"
            )
        elif id(value) in self._seen:
            self._feed(f"again {self._seen[id(value)]}")
        else:
            self._seen[id(value)] = len(self._seen)
            self._held.append(value)
            self._object(value, depth + 1)

    def _object(self, value: object, depth: int) -> None:
        kind = type(value)
        self._feed(f"{kind.__module__}.{kind.__qualname__}")
        if isinstance(value, ms.Parameter):
            self._feed(f"{value.name} {tuple(value.shape)} {value.dtype} {value.requires_grad}")
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
            self._feed(" ".join(sorted(str(item) for item in value)))
        elif isinstance(value, functools.partial):
            self.add("partial", (value.func, value.args, value.keywords), depth)
        elif isinstance(value, types.MethodType):
            self.add("function", value.__func__, depth)
            self.add("owner", value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif hasattr(value, "__dict__") and not isinstance(value, _BY_TYPE_ALONE):
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
            # Compiling leaves empty dicts of hooks in a cell; a cell from the cache has none.
            empty = value is None or (isinstance(value, Mapping) and not value)
            if name not in _BOOKKEEPING and not empty:
                self.add(name, value, depth)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        code = function.__code__
        self._feed(f"{function.__module__}.{function.__qualname__} {code.co_code.hex()}")
        self.add("defaults", (function.__defaults__, function.__kwdefaults__), depth)
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            try:
                self.add(name, cell.cell_contents, depth)
            except ValueError:  # not bound yet
                self._feed("unbound")

    def _numbers(self, array: np.ndarray) -> None:
        self._feed(f"{array.dtype} {array.shape}")
        self.digest.update(np.ascontiguousarray(array).tobytes())

    def _feed(self, text: str) -> None:
        self.digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
