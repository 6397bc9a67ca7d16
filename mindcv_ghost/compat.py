"""Which MindSpore and MindCV are running, on which device, and what to do about it.

The only file that asks for versions; the others take what these functions answer.
"""

from __future__ import annotations

import platform
from importlib import metadata

from mindcv_ghost.errors import ConfigError, UserError

__all__ = ["check_versions", "default_jit_level", "installed_versions", "resolve_device", "set_up"]

_DEVICES = ("Ascend", "GPU", "CPU")
# Releases whose bundled oneDNN takes its reference kernel for every convolution above 1x1 on the
# CPU ("conv+ref:any" under ONEDNN_VERBOSE=1). ResNet-50, 16 images of 64x64, 2 cores: 0.062 s a
# forward pass with 2.8.0, 3.6 s with 2.9.0 and 2.10.0.
_SLOW_ON_CPU = ("2.9.", "2.10.")


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
    there = [name for name in _DEVICES if _is_available(name)]
    if asked == "auto":
        return there[0] if there else "CPU"
    if asked not in there:
        raise ConfigError(
            f"device_target {asked}: this MindSpore finds no such device here, but "
            f"{' and '.join(there) or 'none'}. Give --device_target {there[0] if there else 'CPU'} "
            "or auto; for Ascend and GPU see that MindSpore's package and the driver fit."
        )
    return asked


def _is_available(device: str) -> bool:
    if device == "CPU":
        return True
    from mindspore import device_context

    module = {"Ascend": device_context.ascend, "GPU": device_context.gpu}[device]
    return bool(module.is_available())


def default_jit_level(device: str) -> str:
    """Choose how far graphs are optimised.

    On the CPU the default level costs MindCV's trainer 60 % with a list of learning rates or
    weight-decay groups (ResNet-50, batch 16, 64x64: 0.245 -> 0.40 s a step; 0.244 at O0). With this
    package's step the two levels were equal (benchmarks/jit_level.py), so O0 costs nothing. O2 on
    Ascend is what MindCV's train.py sets.
    """
    return {"CPU": "O0", "GPU": "O0", "Ascend": "O2"}[device]


def set_up(device: str, mode: int, jit_level: str | None) -> None:
    """Set MindSpore's context.

    Args:
        device: as :func:`resolve_device` gives it.
        mode: 0 graph mode, 1 PyNative.
        jit_level: O0, O1, O2, or None for the device's default.
    """
    import mindspore as ms

    ms.set_context(mode=mode)
    ms.set_device(device)
    if mode == 0:
        ms.set_context(jit_config={"jit_level": jit_level or default_jit_level(device)})
