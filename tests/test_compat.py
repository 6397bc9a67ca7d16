"""Which versions are installed, which device a run uses, what MindSpore says about devices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest
from mindspore import device_context

from mindcv_ghost import compat
from mindcv_ghost.errors import ConfigError, UserError

ROOT = Path(__file__).parents[1]


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


GOOD = {"python": "3.11.7", "mindspore": "2.8.0", "mindcv": "0.3.0", "numpy": "1.26.4"}


@pytest.mark.parametrize(
    ("changed", "told", "remedy"),
    [
        (
            {"mindspore": "2.4.10"},
            "2.4.10 is too old: 2.7 or later, .*mindspore.set_dev",
            "2.8.0",
        ),
        (
            {"mindspore": "2.6.0"},
            "MindSpore 2.6.0 is too old: 2.7 or later, below 2.11",
            "2.8.0",
        ),
        ({"mindspore": ""}, "MindSpore isn't installed", "mindspore.cn/install"),
        ({"mindcv": "0.2.2"}, "MindCV 0.2.2 is too old: 0.3 or later, below 0.6", "mindcv==0.3.0"),
        ({"numpy": "1.21.6"}, "NumPy 1.21.6 is too old", "numpy>=1.22"),
        (
            {"numpy": "2.0.2"},
            "NumPy 2.0.2 is installed, but MindSpore 2.8.0 needs",
            "numpy<2",
        ),
        ({"python": "3.8.18"}, "Python 3.8.18 is too old", "python3.11"),
    ],
)
def test_what_is_missing_or_too_old_is_refused_in_one_line(monkeypatch, changed, told, remedy):
    monkeypatch.setattr(compat, "installed_versions", lambda: {**GOOD, **changed})
    with pytest.raises(UserError, match=told) as caught:
        compat.refuse_unsupported_versions()
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"mindspore": "2.7.0"},
        {"mindspore": "2.7.2", "python": "3.9.18"},
        {"mindspore": "2.10.0", "numpy": "2.5.5", "python": "3.12.1"},
        {"mindcv": "0.5.0"},
        {"mindspore": "2.11.0", "numpy": "2.0.0"},
    ],
    ids=str,
)
def test_every_supported_and_every_newer_release_may_run(monkeypatch, changed):
    monkeypatch.setattr(compat, "installed_versions", lambda: {**GOOD, **changed})
    compat.refuse_unsupported_versions()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"mindspore": "2.11.0"},
            "MindSpore 2.11.0 is newer than what this package was tested",
        ),
        ({"mindcv": "0.6.0"}, "MindCV 0.6.0 is newer .* (0.3 or later, below 0.6)"),
        ({"numpy": "3.0.0", "mindspore": "2.10.0"}, "NumPy 3.0.0 is newer"),
        ({"python": "3.13.0"}, "Python 3.13.0 is newer .* (3.9 or later, below 3.13)"),
    ],
)
def test_what_is_newer_is_warned_of(changed, told):
    first = compat.version_warnings({**GOOD, **changed}, "Ascend")[0]
    assert re.search(told.replace("(", r"\(").replace(")", r"\)"), first)


def test_a_script_names_an_old_release_before_it_loads_mindspore():
    code = (
        "import sys; from mindcv_ghost import compat\n"
        "from mindcv_ghost.launch.script import run_script\n"
        "compat.installed_versions = lambda: {'mindspore': '2.5.0'}\n"
        "from mindcv_ghost.commands import train\n"
        "status = run_script(train.main, ['--dataset', 'digits'])\n"
        "assert 'mindspore' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: MindSpore 2.5.0 is too old: 2.7 or later")
    assert done.stderr.count("\n") == 1


def test_setup_py_and_the_check_at_start_allow_the_same_releases():
    text = (ROOT / "setup.py").read_text()
    for name in ("mindcv", "numpy", "pillow"):
        lowest, untested = compat.SUPPORTED[name].lowest, compat.SUPPORTED[name].untested
        limits = f">={lowest}" + (f",<{untested}" if name == "mindcv" else "")
        assert f'"{name}{limits}",' in text
    python = compat.SUPPORTED["python"]
    assert f'python_requires=">={python.lowest},<{python.untested}"' in text


@pytest.mark.parametrize("call", compat.CALLS_SINCE)
def test_the_installed_mindspore_has_every_call_that_older_ones_lack(call):
    value = ms
    for name in call.partition("(")[0].split("."):
        value = getattr(value, name)


def test_every_use_of_a_newer_part_of_mindspore_is_in_the_table():
    call = re.compile(r"(?:ms|mindspore)\.((?:hal|runtime|mint)\.\w+|set_device)\(")
    uses = set()
    for path in (ROOT / "mindcv_ghost").rglob("*.py"):
        text = path.read_text()
        uses |= set(call.findall(text))
        assert not re.search(r"from mindspore import .*\b(hal|runtime|mint)\b", text), path
    assert uses == {"set_device", "runtime.synchronize", "hal.get_device_properties"}
    assert uses <= set(compat.CALLS_SINCE)


@pytest.mark.parametrize(
    "imports", ["import mindcv_ghost, mindspore as ms", "import mindspore as ms, mindcv_ghost"]
)
def test_the_first_eager_call_succeeds_whatever_numpy_is_installed(imports):
    # Under NumPy 2 MindSpore 2.10's first call ends with a SystemError unless it has been settled.
    code = (
        f"import numpy as np\n{imports}\nms.set_device('CPU')\n"
        "assert float((ms.Tensor(np.ones(3, np.float32)) + 1).sum()) == 6\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NumPy 1.x" not in done.stderr


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


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import mindcv_ghost" + MODULE_LEVEL, id="before"),
        pytest.param(MODULE_LEVEL + "import mindcv_ghost", id="after", marks=pytest.mark.slow),
    ],
)
def test_networks_at_module_level_end_without_errors_other_than_the_users_own(tmp_path, program):
    assert errors_at_exit(tmp_path / "program.py", program) == ["ValueError: my own mistake"]


@pytest.mark.slow
def test_without_this_package_networks_at_module_level_end_with_mindspores_errors(tmp_path):
    lines = errors_at_exit(tmp_path / "program.py", MODULE_LEVEL)
    assert lines and all("total_instance_count" in line for line in lines)


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "damaged"}, None),
    ],
)
def test_a_containers_quota_is_read(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert compat._cpu_quota(str(tmp_path)) == quota


def test_usable_cores_are_those_of_the_quota_rounded_up(monkeypatch):
    monkeypatch.setattr(compat.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for quota, cores in ((None, 64), (1.5, 2), (0.2, 1), (100.0, 64)):
        monkeypatch.setattr(compat, "_cpu_quota", lambda quota=quota: quota)
        assert compat.usable_cores() == cores
