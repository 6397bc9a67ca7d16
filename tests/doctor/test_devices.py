"""A MindSpore that can't be loaded, and devices that aren't there, are told in its words."""

from __future__ import annotations

import sys

from mindcv_ghost.doctor import devices
from mindcv_ghost.doctor.findings import BROKEN, OK

FOUND = {"version": "2.8.0", "devices": {"Ascend": [["Ascend910B", 64 * 10**9]] * 8, "GPU": []}}
NONE = {"version": "2.8.0", "devices": {"Ascend": [], "GPU": []}}


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def test_devices_are_counted_with_their_memory_and_what_hides_them():
    found = devices.found(FOUND, "", "auto", {"ASCEND_RT_VISIBLE_DEVICES": "0,1"})
    assert found.state == OK
    assert "8 Ascend (Ascend910B) of 64 GB and the CPU" in found.text
    assert "ASCEND_RT_VISIBLE_DEVICES=0,1" in found.text
    assert found.numbers["devices"] == {"Ascend": 8, "GPU": 0}


def test_a_device_that_was_asked_for_and_isnt_there_is_broken_with_the_reason():
    said = "libge_runner.so: cannot open shared object file: No such file or directory"
    found = devices.found(NONE, said, "Ascend", {})
    assert found.state == BROKEN and found.blocks
    assert f"no Ascend: {said}" in found.text and "set_env.sh" in found.remedy
    assert devices.found(NONE, said, "CPU", {}).state == OK


def test_a_mindspore_that_raises_is_quoted():
    answer, said = devices.ask_mindspore(python("raise ImportError('no libfoo.so')"))
    assert answer == {} and said == "ImportError: no libfoo.so"
    assert devices.found(answer, said, "auto", {}).state == BROKEN


def test_a_mindspore_that_crashes_or_hangs_takes_nobody_along():
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert devices.ask_mindspore(python(crash)) == ({}, "loading MindSpore ended with signal 11")
    answer, said = devices.ask_mindspore(python("import time; time.sleep(60)"), seconds=0.5)
    assert answer == {} and "didn't end within" in said


def test_what_a_plug_in_misses_is_taken_from_mindspores_warning():
    code = (
        "import sys; sys.stderr.write('[WARNING] Error message: Load dynamic library: x failed. "
        "libge_runner.so: cannot open shared object file: No such file\\n')\n"
        f"print({devices._MARK!r} + '{{}}')"
    )
    _, said = devices.ask_mindspore(python(code))
    assert said == "libge_runner.so: cannot open shared object file: No such file"
