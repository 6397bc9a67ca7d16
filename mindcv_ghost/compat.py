"""Which MindSpore and MindCV are running, on which device, and what to do about it.

The only file that asks for versions; the others take what these functions answer.
"""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata

from mindcv_ghost.errors import ConfigError, UserError

__all__ = [
    "check_versions",
    "default_jit_level",
    "device_count",
    "driver_problem",
    "installed_versions",
    "resolve_device",
    "saturates",
    "set_up",
    "usable_cores",
]

_DEVICES = ("Ascend", "GPU", "CPU")
# Releases whose bundled oneDNN takes its reference kernel for every convolution above 1x1 on the
# CPU ("conv+ref:any" under ONEDNN_VERBOSE=1). ResNet-50, 16 images of 64x64, 2 cores: 0.062 s a
# forward pass with 2.8.0, 3.6 s with 2.9.0 and 2.10.0.
_SLOW_ON_CPU = ("2.9.", "2.10.")


def usable_cores() -> int:
    """Count the processor cores that this process may run on.

    Open MPI binds each of two ranks to one core, so these can be fewer than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def installed_versions() -> dict[str, str]:
    """Name the releases that a result depends on."""
    versions = {"python": platform.python_version()}
    for package in ("mindspore", "mindcv", "numpy", "pillow"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # MindSpore for Ascend or GPU may be installed under another distribution name.
            module = __import__(package)
            versions[package] = str(getattr(module, "__version__", "unknown"))
    return versions


def check_versions(versions: dict[str, str], device: str) -> list[str]:
    """Say what is known to go wrong with these releases.

    Args:
        versions: as :func:`installed_versions` gives them.
        device: Ascend, GPU or CPU.

    Returns:
        warnings, one line each.

    Raises:
        UserError: if these releases can't work together at all.

    >>> check_versions({"mindspore": "2.8.0", "numpy": "1.26.4"}, "CPU")
    []
    """
    mindspore, numpy = versions["mindspore"], versions["numpy"]
    if int(numpy.split(".")[0]) >= 2:
        raise UserError(
            f"NumPy {numpy} is installed, MindSpore {mindspore} needs one below 2 (operators fail "
            "with 'numpy.core.multiarray failed to import'). Run: pip install 'numpy<2'"
        )
    warnings = []
    if device == "CPU" and mindspore.startswith(_SLOW_ON_CPU):
        warnings.append(
            f"MindSpore {mindspore} computes convolutions on the CPU about 50 times slower than "
            "2.8.0 does; native operators, where the log names them, don't. For other networks "
            "run: pip install mindspore==2.8.0"
        )
    return warnings


def resolve_device(asked: str) -> str:
    """Turn ``device_target`` into a device that is there; ``auto`` takes Ascend, GPU, then CPU.

    Raises:
        ConfigError: if the device asked for isn't there.
    """
    there = [name for name in _DEVICES if device_count(name) != 0]
    if asked == "auto":
        return there[0]
    if asked not in there:
        problem = driver_problem(asked)
        raise ConfigError(
            f"device_target {asked}: MindSpore finds no such device here, but {' and '.join(there)}"
            f"{f' ({problem})' if problem else ''}. Give --device_target {there[0]} or auto; for "
            "Ascend and GPU see that the driver runs and that MindSpore's package fits it."
        )
    return asked


def device_count(device: str) -> int | None:
    """Count the devices that this process can use; None for the CPU, which ranks share."""
    return None if device == "CPU" else _ask_driver(device)[0]


def driver_problem(device: str) -> str:
    """Say why there is no device though MindSpore has a plug-in for it; "" if that isn't so."""
    return "" if device == "CPU" else _ask_driver(device)[1]


@functools.cache
def _ask_driver(device: str) -> tuple[int, str]:
    """The number of devices, and what is wrong.

    ``is_available`` isn't enough: it says that MindSpore's plug-in for the device could be loaded,
    which it can be on a host without one (MindSpore 2.8, ``device_context/ascend/device.py``).
    """
    from mindspore import device_context

    module = {"Ascend": device_context.ascend, "GPU": device_context.gpu}[device]
    if not module.is_available():
        return 0, ""
    try:
        count = int(module.device_count())
    except Exception as error:  # whatever the driver's library raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return 0, f"{device}'s driver doesn't answer: {first}"
    return count, "" if count else f"{device}'s driver finds no device"


def saturates(device: str) -> bool:
    """Whether arithmetic on a device saturates instead of overflowing to infinity.

    The rule is that of ``mindspore/amp.py`` (2.8, ``_all_finite``).
    """
    if device != "Ascend":
        return False
    from mindspore._c_expression import MSContext

    chip = MSContext.get_instance().get_ascend_soc_version()
    if chip in ("ascend910b", "ascend910_93"):
        return os.environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE") == "SATURATION_MODE"
    return chip == "ascend910"


def default_jit_level(device: str) -> str:
    """Choose how far graphs are optimised.

    On the CPU the default level costs MindCV's trainer 60 % with a list of learning rates or
    weight-decay groups (ResNet-50, batch 16, 64x64: 0.245 -> 0.40 s a step; 0.244 at O0). With this
    package's step the two levels were equal (benchmarks/jit_level.py), so O0 costs nothing. O2 on
    Ascend is what MindCV's train.py sets.
    """
    return {"CPU": "O0", "GPU": "O0", "Ascend": "O2"}[device]


def set_up(device: str, device_id: int, mode: int, jit_level: str | None) -> None:
    """Set MindSpore's context.

    Args:
        device: as :func:`resolve_device` gives it.
        device_id: which of its kind. It is named here, once, as MindSpore 2.8 refuses another
            number later ("The 'mindspore.set_device' can not be modified."). Ranks on the CPU have
            nothing to name.
        mode: 0 graph mode, 1 PyNative.
        jit_level: O0, O1, O2, or None for the device's default.
    """
    import mindspore as ms

    ms.set_context(mode=mode)
    ms.set_device(device, *(() if device == "CPU" else (device_id,)))
    if mode == 0:
        ms.set_context(jit_config={"jit_level": jit_level or default_jit_level(device)})
