"""Which versions are installed, which device a run uses, what MindSpore says about devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest
from mindspore import device_context

from mindcv_ghost import compat
from mindcv_ghost.errors import ConfigError


@pytest.fixture
def devices(monkeypatch):
    """Simulates a plug-in for a device whose driver answers, or fails."""
    monkeypatch.setattr(compat, "_ask_driver", compat._ask_driver.__wrapped__)

    def simulate(name: str, count: int | Exception) -> None:
        def device_count() -> int:
            if isinstance(count, Exception):
                raise count
            return count

        module = getattr(device_context, name.lower())
        monkeypatch.setattr(module, "is_available", lambda: True)
        monkeypatch.setattr(module, "device_count", device_count)

    return simulate


def test_missing_packages_are_found_without_importing_any(monkeypatch):
    def missing(name):
        raise compat.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compat.metadata, "version", missing)
    assert compat.installed_versions()["mindspore"] == ms.__version__  # this process has loaded it
    monkeypatch.delitem(sys.modules, "mindspore")
    assert compat.installed_versions()["mindspore"] == ""
    assert "mindspore" not in sys.modules


def test_mindspore_is_found_under_the_name_of_a_build_for_devices(monkeypatch):
    def version(name):
        if name != "mindspore-ascend":
            raise compat.metadata.PackageNotFoundError(name)
        return "2.7.1"

    monkeypatch.setattr(compat.metadata, "version", version)
    assert compat.installed_versions()["mindspore"] == "2.7.1"


def test_auto_prefers_ascend_then_gpu_then_cpu(devices):
    assert compat.resolve_device("auto") == "CPU"
    devices("GPU", 2)
    assert (compat.resolve_device("auto"), compat.device_count("GPU")) == ("GPU", 2)
    devices("Ascend", 8)
    assert (compat.resolve_device("auto"), compat.device_count("Ascend")) == ("Ascend", 8)


@pytest.mark.parametrize(
    ("count", "problem"),
    [
        (RuntimeError("dcmi module initialize failed.\n- C++ stack"), "dcmi module initialize fai"),
        (0, "Ascend's driver finds no device"),
    ],
)
def test_a_plug_in_that_loads_on_a_host_without_a_device_is_ignored(devices, count, problem):
    devices("Ascend", count)
    assert compat.resolve_device("auto") == "CPU"
    assert problem in compat.driver_problem("Ascend")
    with pytest.raises(ConfigError, match=f"device_target Ascend: .* but CPU .*{problem}"):
        compat.resolve_device("Ascend")


def test_a_device_is_set_once_with_its_number_and_the_cpu_without_one(monkeypatch):
    named = []
    monkeypatch.setattr(ms, "set_device", lambda *args: named.append(args))
    monkeypatch.setattr(ms, "set_context", lambda **_: None)
    compat.set_up("Ascend", 3, mode=0, jit_level=None)
    compat.set_up("CPU", 0, mode=0, jit_level=None)
    assert named == [("Ascend", 3), ("CPU",)]


@pytest.mark.parametrize(
    ("device", "chip", "mode", "saturates"),
    [
        ("Ascend", "ascend910", "", True),
        ("Ascend", "ascend910b", "", False),
        ("Ascend", "ascend910b", "SATURATION_MODE", True),
        ("Ascend", "ascend910_93", "INFNAN_MODE", False),
        ("GPU", "", "SATURATION_MODE", False),
        ("CPU", "", "", False),
    ],
)
def test_arithmetic_saturates_on_the_910a_and_on_a_910b_in_saturation_mode(
    monkeypatch, device, chip, mode, saturates
):
    class Context:
        get_ascend_soc_version = staticmethod(lambda: chip)

    monkeypatch.setattr("mindspore._c_expression.MSContext.get_instance", Context)
    monkeypatch.setenv("MS_ASCEND_CHECK_OVERFLOW_MODE", mode)
    assert compat.saturates(device) is saturates


PIPES = dict(capture_output=True, text=True)
# What is freed last: a network that is a global variable, and a cell whose own __del__ fails.
MODULE_LEVEL = """
import mindcv
from mindspore import nn

class Own(nn.Cell):
    def __del__(self):
        super().__del__()
        raise ValueError("my own mistake")

network = nn.SequentialCell(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
own = Own()
"""


def errors_at_exit(script: Path, code: str) -> list[str]:
    script.write_text(code, encoding="utf-8")
    root = Path(compat.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        **PIPES,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "Error: " in line]


def test_networks_at_module_level_end_without_errors_other_than_the_users_own(tmp_path):
    mine = "ValueError: my own mistake"
    without = errors_at_exit(tmp_path / "without.py", MODULE_LEVEL)
    assert without and all("total_instance_count" in line for line in without)
    for name, imports in (
        ("before", "import mindcv_ghost" + MODULE_LEVEL),
        ("after", MODULE_LEVEL + "import mindcv_ghost"),
    ):
        assert errors_at_exit(tmp_path / f"{name}.py", imports) == [mine]
