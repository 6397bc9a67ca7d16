"""A MindSpore that can't be loaded, or a device that is missing, is reported with its message."""

from __future__ import annotations

import sys

from mindcv_ghost.doctor import devices
from mindcv_ghost.doctor.report import BROKEN, OK

FOUND = {"version": "2.8.0", "devices": {"Ascend": [["Ascend910B", 64 * 10**9]] * 8, "GPU": []}}
NONE = {"version": "2.8.0", "devices": {"Ascend": [], "GPU": []}}


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def test_devices_are_counted_with_memory_and_visibility_variables():
    result = devices.check_devices(FOUND, "", "auto", {"ASCEND_RT_VISIBLE_DEVICES": "0,1"})
    assert result.state == OK
    assert "8 Ascend (Ascend910B) of 64 GB and the CPU" in result.text
    assert "ASCEND_RT_VISIBLE_DEVICES=0,1" in result.text
    assert result.numbers["devices"] == {"Ascend": 8, "GPU": 0}


def test_a_missing_device_is_broken_with_the_reason():
    message = "libge_runner.so: cannot open shared object file: No such file or directory"
    result = devices.check_devices(NONE, message, "Ascend", {})
    assert result.state == BROKEN and result.blocks
    assert f"no Ascend: {message}" in result.text and "set_env.sh" in result.remedy
    assert devices.check_devices(NONE, message, "CPU", {}).state == OK


def test_mindspores_exception_is_quoted():
    answer, message = devices.query_mindspore(python("raise ImportError('no libfoo.so')"))
    assert answer == {} and message == "ImportError: no libfoo.so"
    assert devices.check_devices(answer, message, "auto", {}).state == BROKEN


def test_a_mindspore_that_crashes_or_hangs_is_only_a_result():
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert devices.query_mindspore(python(crash)) == ({}, "loading MindSpore ended with signal 11")
    answer, message = devices.query_mindspore(python("import time; time.sleep(60)"), seconds=0.5)
    assert answer == {} and "didn't end within" in message


def test_a_missing_library_is_taken_from_mindspores_warning():
    code = (
        "import sys; sys.stderr.write('[WARNING] Error message: Load dynamic library: x failed. "
        "libge_runner.so: cannot open shared object file: No such file\\n')\n"
        f"print({devices._MARK!r} + '{{}}')"
    )
    _, message = devices.query_mindspore(python(code))
    assert message == "libge_runner.so: cannot open shared object file: No such file"
