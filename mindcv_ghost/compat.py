"""Versions of MindSpore and MindCV, devices and what depends on them, cores, the cache folder.

Only this module looks at versions; other modules call its functions.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_ghost.errors import ConfigError, UserError, first_line

if TYPE_CHECKING:
    from mindspore import nn

__all__ = [
    "CALLS_SINCE",
    "SUPPORTED",
    "NamesGraphOnce",
    "VersionProblem",
    "cache_folder",
    "calls_missing_in",
    "current_device",
    "default_jit_level",
    "device_count",
    "driver_problem",
    "end_quietly",
    "hook_version",
    "in_graph_mode",
    "installed_versions",
    "mint_convolutions",
    "refuse_unsupported_versions",
    "resolve_device",
    "saturates",
    "set_up",
    "settle_numpy",
    "usable_cores",
    "version_problems",
    "version_warnings",
]

_DEVICES = ("Ascend", "GPU", "CPU")


@dataclass(frozen=True)
class SupportedRange:
    """The releases of a package that this one is tested with (``make test-releases``).

    Args:
        name: for messages.
        lowest: older ones are refused.
        untested: this release and later ones are warned of; "" if none is.
        remedy: how to get a supported one.
    """

    name: str
    lowest: str
    untested: str
    remedy: str

    @property
    def words(self) -> str:
        """The range in words."""
        return f"{self.lowest} or later" + (f", below {self.untested}" if self.untested else "")


SUPPORTED = {
    "python": SupportedRange(
        "Python", "3.9", "3.13", "create an environment with another one: python3.11 -m venv .venv"
    ),
    "mindspore": SupportedRange(
        "MindSpore",
        "2.7",
        "2.11",
        "pip install mindspore==2.8.0 (CPU), or the build for your Ascend or GPU from "
        "mindspore.cn/install",
    ),
    "mindcv": SupportedRange("MindCV", "0.3", "0.6", "pip install mindcv==0.3.0"),
    "numpy": SupportedRange("NumPy", "1.22", "3", "pip install 'numpy>=1.22,<2'"),
    "pillow": SupportedRange("Pillow", "9.2", "", "pip install 'pillow>=9.2'"),
}
# The calls of this package that MindSpore 2.3 doesn't have or got with it, and the release that
# brought them. Sources: the release notes of 2.3.0 (jit_level, hal) and of 2.5.0 (runtime replaces
# hal, device_context replaces parts of set_context); the documentation has set_device since 2.5.0.
CALLS_SINCE = {
    "set_context(jit_config={'jit_level': ...})": "2.3",
    "hal.get_device_properties": "2.3",
    "set_device": "2.5",
    "device_context.ascend": "2.5",
    "device_context.gpu": "2.5",
    "runtime.synchronize": "2.5",
}
# The first release whose metadata lets pip install NumPy 2.
_NUMPY_2_SINCE = "2.10"
# Releases whose bundled oneDNN takes its reference kernel for every convolution above 1x1 on the
# CPU ("conv+ref:any" under ONEDNN_VERBOSE=1). ResNet-50, 16 images of 64x64, 2 cores: 0.062 s a
# forward pass with 2.8.0, 3.6 s with 2.9.0 and 2.10.0.
_SLOW_ON_CPU = ("2.9.", "2.10.")
# Distributions of the packages that results depend on; MindSpore has been packaged for devices
# under other names.
_DISTRIBUTIONS = {
    "mindspore": ("mindspore", "mindspore-gpu", "mindspore-ascend"),
    "mindcv": ("mindcv",),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
}


def usable_cores() -> int:
    """Count the processor cores that this process may use.

    Open MPI binds each of two ranks to one core, and a container may have a quota of processor time
    (``docker run --cpus 2``), so these can be fewer than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1  # macOS and Windows
    quota = _cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu_quota(root: str = "/sys/fs/cgroup") -> float | None:
    """Return the cores' worth of time that a container may use; None without a limit.

    Inside a container its own control group is at the root.

    Args:
        root: where the control groups of version 2, or those of version 1, are mounted.
    """
    files = (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"])
    for names in files:
        try:
            words = " ".join(Path(root, name).read_text() for name in names).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # another version, or "max": no limit
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def cache_folder() -> Path:
    """Return this package's folder in XDG_CACHE_HOME or ~/.cache; it may not exist yet.

    A relative XDG_CACHE_HOME is ignored, as the XDG Base Directory Specification wants it.

    Raises:
        UserError: if this user has no home folder.
    """
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        try:
            caches = os.path.join(Path.home(), ".cache")
        except RuntimeError:  # HOME isn't set, and the system doesn't know this user
            raise UserError(
                "there is no place for downloaded and compiled files, because this user has no "
                "home folder: set XDG_CACHE_HOME (or HOME) to a folder that can be written to"
            ) from None
    return Path(caches) / "mindcv_ghost"


def installed_versions() -> dict[str, str]:
    """Return the versions that results depend on, by package; "python" is among them.

    Imports no package. The version is "" where a package isn't installed.
    """
    versions = {"python": platform.python_version()}
    for package, distributions in _DISTRIBUTIONS.items():
        # A package that runs without being installed (MindSpore's build folder on PYTHONPATH) is
        # known once it has been imported.
        versions[package] = str(getattr(sys.modules.get(package), "__version__", ""))
        for name in distributions:
            try:
                versions[package] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return versions


@dataclass(frozen=True)
class VersionProblem:
    """Why this package can't run with what is installed, and what to do about it."""

    text: str
    remedy: str


def version_problems(versions: Mapping[str, str]) -> list[VersionProblem]:
    """Find what is missing, too old, or doesn't work together.

    Args:
        versions: as :func:`installed_versions` returns them.

    >>> version_problems({"mindspore": "2.10.0", "numpy": "2.3.1"})
    []
    >>> version_problems({"mindspore": "2.8.0", "numpy": "2.3.1"})[0].remedy
    "pip install 'numpy<2'"
    """
    problems = []
    for package, version in versions.items():
        supported = SUPPORTED[package]
        if not version:
            problems.append(VersionProblem(f"{supported.name} isn't installed", supported.remedy))
        elif _release(version) < _release(supported.lowest):
            text = f"{supported.name} {version} is too old: {supported.words} is needed"
            missing = calls_missing_in(version) if package == "mindspore" else []
            if missing:
                text += f" (it lacks {', '.join(missing)})"
            problems.append(VersionProblem(text, supported.remedy))
    mindspore, numpy = versions.get("mindspore", ""), versions.get("numpy", "")
    needs_numpy_1 = mindspore and _release(mindspore) < _release(_NUMPY_2_SINCE)
    if needs_numpy_1 and numpy and _release(numpy) >= (2, 0, 0):
        problems.append(
            VersionProblem(
                f"NumPy {numpy} is installed, but MindSpore {mindspore} needs one below 2 (only "
                f"{_NUMPY_2_SINCE} and later take 2)",
                "pip install 'numpy<2'",
            )
        )
    return problems


def refuse_unsupported_versions() -> None:
    """Check what is installed, before anything slow is imported.

    Raises:
        UserError: if something is missing, too old, or doesn't work together.
    """
    problems = version_problems(installed_versions())
    if problems:
        raise UserError("; ".join(f"{each.text}. Run: {each.remedy}" for each in problems))


def version_warnings(versions: Mapping[str, str], device: str) -> list[str]:
    """Say what is untested or slow with these versions, one line each.

    Args:
        versions: as :func:`installed_versions` returns them.
        device: Ascend, GPU or CPU.

    >>> version_warnings({"mindspore": "2.8.0", "numpy": "1.26.4"}, "CPU")
    []
    """
    warnings = []
    for package, version in versions.items():
        supported = SUPPORTED[package]
        if version and supported.untested and _release(version) >= _release(supported.untested):
            warnings.append(
                f"{supported.name} {version} is newer than what this package was tested with "
                f"({supported.words}). If something fails: {supported.remedy}"
            )
    mindspore = versions["mindspore"]
    if device == "CPU" and mindspore.startswith(_SLOW_ON_CPU):
        warnings.append(
            f"MindSpore {mindspore} computes convolutions on the CPU about 50 times slower than "
            "2.8.0 does, except for the native operators that the log names. For other networks "
            "run: pip install mindspore==2.8.0"
        )
    return warnings


def calls_missing_in(mindspore: str) -> list[str]:
    """List the calls of this package that a release of MindSpore doesn't have.

    >>> calls_missing_in("2.4.10")[0], calls_missing_in("2.6.0")
    ('mindspore.set_device', [])
    """
    return [
        f"mindspore.{call}"
        for call, since in CALLS_SINCE.items()
        if _release(mindspore) < _release(since)
    ]


def _release(version: str) -> tuple[int, ...]:
    """Split a release into numbers that compare in the right order.

    >>> _release("2.8.0rc1") < _release("2.10"), _release("0.3.0") < _release("0.3.1")
    (True, True)
    """
    numbers = [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def mint_convolutions(network: nn.Cell) -> list[str]:
    """List the convolutions of a network that are ``mindspore.mint`` layers.

    MindCV's repository (0.5.0) builds its networks of these, 0.3.0 of ``mindspore.nn`` layers.
    MindSpore has no kernels for them on the CPU ("The kernel Conv2DExt unregistered", 2.8.0).

    Args:
        network: any network.
    """
    return [
        name
        for name, cell in network.cells_and_names()
        if type(cell).__module__.startswith("mindspore.mint.") and "Conv" in type(cell).__name__
    ]


def settle_numpy() -> None:
    """Let MindSpore 2.10's one failure with NumPy 2 happen here, where it does no harm.

    Its libmindspore_common.so was compiled against NumPy 1. The first call of an operator in
    PyNative mode runs that NumPy's ``import_array()``, which NumPy 2 refuses. MindSpore then logs
    "Numpy init failed." (utils/pynative/py_parse.cc:132) and goes on, but leaves Python's error
    set, so that this first call ends with a SystemError. Later calls are right, except that they
    refuse NumPy's scalars as operands, as MindSpore 2.7 does with any NumPy. A call with an illegal
    argument has the same effect and ends before any device is used. Arrays, graphs and data sets
    don't go this way.
    """
    import mindspore as ms
    import numpy as np

    if _release(np.__version__) < (2, 0, 0):
        return
    # NumPy prints a page of advice to users of such a module.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(TypeError, SystemError):
        ms.Tensor(np.zeros(1, np.float32)).sum("an illegal axis")


def resolve_device(asked: str) -> str:
    """Choose the device for ``device_target``; ``auto`` prefers Ascend, then GPU, then CPU.

    Args:
        asked: auto, Ascend, GPU or CPU.

    Returns:
        Ascend, GPU or CPU.

    Raises:
        ConfigError: if this machine doesn't have the device.
    """
    available = [name for name in _DEVICES if device_count(name) != 0]
    if asked == "auto":
        return available[0]
    if asked not in available:
        problem = driver_problem(asked)
        raise ConfigError(
            f"device_target {asked}: MindSpore finds no such device here, but "
            f"{' and '.join(available)}{f' ({problem})' if problem else ''}. Give --device_target "
            f"{available[0]} or auto; for Ascend and GPU check that the driver runs and that "
            "MindSpore's package fits it."
        )
    return asked


def device_count(device: str) -> int | None:
    """Count the devices that this process can use; None for the CPU, which all ranks share."""
    return None if device == "CPU" else _ask_driver(device)[0]


def driver_problem(device: str) -> str:
    """Say why MindSpore's plug-in for a device finds none; "" if it does or there is no plug-in."""
    return "" if device == "CPU" else _ask_driver(device)[1]


@functools.cache
def _ask_driver(device: str) -> tuple[int, str]:
    """Return the number of devices, and the problem if there is none.

    ``is_available`` isn't enough: it only says that MindSpore's plug-in for the device could be
    loaded, which succeeds on a host without the device, too (MindSpore 2.8,
    ``device_context/ascend/device.py``).
    """
    from mindspore import device_context

    module = {"Ascend": device_context.ascend, "GPU": device_context.gpu}[device]
    if not module.is_available():
        return 0, ""
    try:
        count = int(module.device_count())
    except Exception as error:  # whatever the driver's library raises
        return 0, f"{device}'s driver doesn't answer: {first_line(error)}"
    return count, "" if count else f"{device}'s driver finds no device"


class NamesGraphOnce:
    """Mixed into a cell that is called again and again: a call doesn't walk through its cells.

    Before each call MindSpore 2.8 writes the name of the graph (``compile_phase``) into every cell
    below, and only the parser reads it (``Cell.compile_phase``, ``_CellGraphExecutor.compile``). It
    takes 0.4 ms for ghost_resnet20_cifar, 1.2 ms for ghost_resnet50 and 3.7 ms for ghostnetv3_100.
    A graph that is compiled has a new name.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name != "compile_phase" or vars(self).get("_compile_phase") != value:
            super().__setattr__(name, value)


def current_device() -> str:
    """Return the device that MindSpore computes on in this process: Ascend, GPU or CPU."""
    import mindspore as ms

    return ms.get_context("device_target")


def hook_version() -> int:
    """Return the number of times that hooks of cells were registered or removed.

    It is a part of the key of each compiled graph (``_CellGraphExecutor.compile`` of 2.7 to 2.10).
    """
    from mindspore.common.hook_handle import _hook_version

    return _hook_version()


def in_graph_mode() -> bool:
    """Whether a call of a cell compiles it, as ``Cell.__call__`` decides."""
    # ms.get_context("mode") takes 10 microseconds, and 50 when it isn't in the caches.
    from mindspore import context

    return context._get_mode() == context.GRAPH_MODE and os.getenv("MS_JIT") != "0"


def end_quietly() -> None:
    """Keep MindSpore's cells from failing when they are freed after MindSpore itself.

    To be called when Python ends. Python then sets the names in each module to None, and later
    frees the cells that are global variables of a script. ``Cell.__del__`` uses names of its module
    (``Cell.total_instance_count -= 1`` in ``nn/cell.py`` of MindSpore 2.7 to 2.10), so that Python
    prints an "Exception ignored in" for each cell. ``__del__`` has nothing to do by then: it counts
    cells and frees compiled graphs, which the end of the process frees as well.

    As long as its module is whole, ``Cell.__del__`` runs as it is. The ``__del__`` of other classes
    always does, also that of a user's cells.
    """
    module = sys.modules.get("mindspore.nn.cell")
    delete = getattr(getattr(module, "Cell", None), "__del__", None)
    if module is None or delete is None:
        return
    names = [name for name in delete.__code__.co_names if hasattr(module, name)]
    whole = module.__dict__

    def delete_unless_ended(cell: object) -> None:
        if all(whole.get(name) is not None for name in names):
            delete(cell)

    module.Cell.__del__ = delete_unless_ended


def saturates(device: str) -> bool:
    """Whether arithmetic on a device saturates instead of overflowing to infinity.

    The rule is taken from ``mindspore/amp.py`` (2.8, ``_all_finite``).
    """
    if device != "Ascend":
        return False
    from mindspore._c_expression import MSContext

    chip = MSContext.get_instance().get_ascend_soc_version()
    if chip in ("ascend910b", "ascend910_93"):
        return os.environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE") == "SATURATION_MODE"
    return chip == "ascend910"


def default_jit_level(device: str) -> str:
    """Return the graph optimisation level (``jit_level``) for a device.

    On the CPU MindSpore's default level slows MindCV's trainer down by 60 % if it has a list of
    learning rates or weight-decay groups (ResNet-50, batch 16, 64x64: 0.245 -> 0.40 s per step;
    0.244 s at O0). With this package's step both levels are equally fast
    (benchmarks/jit_level.py), so O0 is safe. On Ascend MindCV's train.py sets O2.
    """
    return {"CPU": "O0", "GPU": "O0", "Ascend": "O2"}[device]


def set_up(device: str, device_id: int, mode: int, jit_level: str | None) -> None:
    """Set MindSpore's context.

    Args:
        device: as :func:`resolve_device` returns it.
        device_id: number of the device on this host. It is set here, once: MindSpore 2.8 refuses
            another number later ("The 'mindspore.set_device' can not be modified."). Ignored on
            the CPU.
        mode: 0 for graph mode, 1 for PyNative mode.
        jit_level: O0, O1, O2, or None for the device's default.
    """
    import mindspore as ms

    ms.set_context(mode=mode)
    ms.set_device(device, *(() if device == "CPU" else (device_id,)))
    if mode == 0:
        ms.set_context(jit_config={"jit_level": jit_level or default_jit_level(device)})
